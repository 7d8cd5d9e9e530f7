"""The command line: flags in, exit code out. One file for each subcommand."""
