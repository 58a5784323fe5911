"""The command line: the option registry, its parser, the help text and the exit codes."""
