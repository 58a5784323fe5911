"""``python -m pysshfs`` is the ``pysshfs`` command."""

from pysshfs.cli.main import main

raise SystemExit(main())
