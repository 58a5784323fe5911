"""What the tests and the benchmark need around the program: servers, links and mounts.

Everything here runs in processes of its own, has a time limit and can be put down by pid, so
that neither a silent server nor a stuck mount can hold up the process that runs the tests.
"""
