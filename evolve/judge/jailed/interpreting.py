"""Run by the interpreter: later in this file."""
