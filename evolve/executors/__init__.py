"""Where judging happens: `local` is this machine's GPUs, `cluster` those of a Ray cluster, `spread` who gets what."""
