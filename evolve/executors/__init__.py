"""Where judging happens. `local` is this machine."""
