# Shortcuts; `make` lists them.  scripts/demo and scripts/test do the same without make.

PREFIX ?= /usr/local
DESTDIR ?=
# Where mount(8) looks for helpers; it looks nowhere else.
SBINDIR ?= /sbin

# What scripts/lib.sh offers, for a recipe of one line.
LIB = set -eu; checkout='$(CURDIR)'; . scripts/lib.sh;
IN_VENV = .venv/bin/python -m

.PHONY: help demo test sweep prove fuzz lint bench bench-quick bench-grow bench-checks bench-layers bench-docs install install-units uninstall clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\): ## /\1	/p' $(MAKEFILE_LIST) | expand -t 14

demo: ## mount a folder from a local server, use it, unmount it
	@scripts/demo

test: ## ruff, mypy and pytest
	@scripts/test

sweep: ## cut the connection at every packet of a job (half an hour)
	@$(LIB) need_tests; prepare test; provide_sshd_directory
	PYSSHFS_SWEEP=all $(IN_VENV) pytest tests/faults/test_sweep.py

prove: ## take each check out of a copy, and see the hostile server get through (half an hour)
	@$(LIB) need_tests; prepare test
	$(IN_VENV) tests.hostile.prove --record $(PROVE)

fuzz: ## mutated conversations with a server: SECONDS=60 or COUNT=, SEED=
	@$(LIB) prepare test
	$(IN_VENV) tests.hostile.fuzz --coverage $(if $(SEED),--seed $(SEED)) \
		$(if $(COUNT),--count $(COUNT)) $(if $(SECONDS),--seconds $(SECONDS))

lint: ## ruff and mypy only
	@$(LIB) prepare test
	$(IN_VENV) ruff check .
	$(IN_VENV) mypy

# Only some of it: PROVE='names handles'.
PROVE ?=

bench: ## time pysshfs against sshfs (about 50 minutes)
	@$(LIB) $(BENCH_NEEDS)
	$(IN_VENV) bench $(BENCH)

bench-quick: ## the same with less work, once (under 4 minutes)
	@$(LIB) $(BENCH_NEEDS)
	$(IN_VENV) bench --quick $(BENCH)

bench-grow: ## how time and memory grow with sizes and numbers
	@$(LIB) $(BENCH_NEEDS)
	$(IN_VENV) bench --grow $(BENCH)

bench-checks: ## what the checks on the server's word cost (10 minutes)
	@$(LIB) $(BENCH_NEEDS)
	$(IN_VENV) bench.checks

bench-layers: ## what one request costs in each layer (a minute)
	@$(LIB) prepare test; provide_sshd_directory
	$(IN_VENV) bench.layers

bench-docs: ## both, into docs/performance.md and the figures beside it
	@$(LIB) $(BENCH_NEEDS)
	-$(IN_VENV) bench --docs
	$(IN_VENV) bench --grow --docs

# More options for it, say BENCH='--only tar --rtt 10'.
BENCH ?=

BENCH_NEEDS = need_tests; need_program sshfs sshfs 'to compare with'; \
	prepare test; provide_sshd_directory

install: ## install for all users: PREFIX=/usr/local SBINDIR=/sbin DESTDIR=
	@$(LIB) find_python; need_build; install_missing; check_build; \
		install_program '$(PREFIX)' '$(DESTDIR)'; \
		install_helpers '$(PREFIX)' '$(DESTDIR)' '$(SBINDIR)'

install-units: ## install the units of systemd: PREFIX=/usr/local DESTDIR=
	@$(LIB) install_units '$(PREFIX)' '$(DESTDIR)'

uninstall: ## remove what `make install` installed, with the same variables
	@$(LIB) uninstall_units '$(PREFIX)' '$(DESTDIR)'; \
		uninstall_helpers '$(PREFIX)' '$(DESTDIR)' '$(SBINDIR)'; \
		uninstall_program '$(PREFIX)' '$(DESTDIR)'

clean: ## remove .venv and everything else that was made in the checkout
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -f pysshfs/fuse/*.so
	find pysshfs tests bench -name __pycache__ -prune -exec rm -rf {} +
