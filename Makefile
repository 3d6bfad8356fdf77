# SPDX-License-Identifier: Apache-2.0
# make setup   what is missing from apt, and a virtual environment with ckptree in it
# make check   linters, types, import rules, and the unit tests that are not slow, in parallel, with a tenth of the random examples
# make coverage     the unit tests of make check with their coverage, which must not fall below the gate
# make packages-criu     CRIU and the programs that it dumps in the tests, below build/criu (380 MB); CRIU_SUITE=sid for a newer CRIU
# make demo    snapshot a hard tree, compare every number with the kernel's own, make the tree again
# make test    all checks and all tests; as root the live ones too
# make man     manual pages and completions, in build/share
# make docs    the pages as a site, in build/docs; a broken link is an error
# make deb     the Debian package, in dist
# make test-deb      that package installed, run, upgraded and purged in a clean root
# make test-systemd  the service under systemd as pid 1, in a virtual machine of Debian's kernel
# make matrix  distributions and kernels, in clean roots and emulated machines: docs/matrix.md; CELLS="debian13-here sid-newest" for some
# make torture captures of a fork storm, ours and others', judged by the storm's own log; STORMS=10 of each kind
# make soak    an hour, or DURATION=... seconds, of storms with everything watched
# make bench   measurements
# make hostile what root gets of the daemon while other users' processes attack it; SECONDS_EACH=...
# make crashes a daemon killed a hundred times, and restarted sixty times, in storms
# make fuzz    mutated images into the reader, ten million or RUNS=...
# make fuzz-recording   changed recordings into their reader, likewise
# make fuzz-criu   changed folders of CRIU's images into their readers, likewise
# make fuzz-api    mutated requests into the daemon's protocol, likewise
# make clean   remove what the others made

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The system's Python, for that one has bcc. Another may stand first on PATH.
SYSTEM_PYTHON := /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
# A virtual environment knows its own path: one that was copied here with its checkout is made again.
STAMP := $(VENV)/.ready-$(shell printf '%s' "$(CURDIR)" | cksum | cut -d' ' -f1)
RUNS := 10000000
STORMS := 1
DURATION := 3600
SECONDS_EACH := 10
ROOT := $(filter 0,$(shell id -u))
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore

# Byte code is kept, in a folder of its own. Where the environment forbids it, as that of many containers does, each worker
# of the tests compiles every test, and each process that a test starts compiles ckptree.
UNIT_TESTS := env -u PYTHONDONTWRITEBYTECODE PYTHONPYCACHEPREFIX=$(CURDIR)/build/bytecode CKPTREE_QUICK=1 \
	$(BIN)/pytest -q -m 'not live and not slow' -n auto --dist worksteal tests/unit

# One command for each Debian package, true where it is not needed any more.
define NEED
missing=(); \
need() { "$${@:2}" >/dev/null 2>&1 </dev/null || missing+=("$$1"); };
endef

define NEED_FOR_SETUP
need python3 $(SYSTEM_PYTHON) -c 'import sys; assert sys.version_info >= (3, 11)'; \
need python3-venv $(SYSTEM_PYTHON) -c 'import ensurepip, venv'; \
need python3-bpfcc $(SYSTEM_PYTHON) -c 'from bcc import BPF'; \
need gcc gcc --version; \
need libc6-dev test -e /usr/include/stdio.h; \
need python3-dev test -e "$$($(SYSTEM_PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h"; \
need clang clang --version; \
need graphviz dot -V; \
need mandoc test -x /usr/bin/mandoc; \
need openssh-client test -x /usr/bin/ssh-keygen; \
need procps ps --version; \
need systemd systemd-analyze --version;
endef

# crit, which reads what the format criu writes: of criu, from Debian 13 on of a package of its own, and Ubuntu 24.04 has none.
define NEED_FOR_CRIT
if ! crit --help >/dev/null 2>&1 </dev/null; then \
	if [[ -n "$(ROOT)" ]] && ! apt-cache dumpavail 2>/dev/null | grep -c . >/dev/null; then apt-get update </dev/null >&2 || true; fi; \
	for name in python3-pycriu criu; do \
		if apt-cache policy "$$name" 2>/dev/null | grep -c 'Candidate: [^(]' >/dev/null; then missing+=("$$name"); break; fi; \
	done; \
	if (($${#missing[@]} == 0)); then echo "setup: there is no crit here: tests/unit/exporters/test_criu.py will miss it" >&2; fi; \
fi;
endef

# The browser that shows what the format html writes. Ubuntu has it as a snap alone, which this does not install.
define NEED_FOR_BROWSER
if ! chromium --version >/dev/null 2>&1 </dev/null && ! google-chrome --version >/dev/null 2>&1 </dev/null; then \
	if [[ -n "$(ROOT)" ]] && ! apt-cache dumpavail 2>/dev/null | grep -c . >/dev/null; then apt-get update </dev/null >&2 || true; fi; \
	if apt-cache policy chromium 2>/dev/null | grep -c 'Candidate: [^(]' >/dev/null; then missing+=(chromium); \
	else echo "setup: there is no chromium here: tests/unit/exporters/test_htmlpage_browser.py will miss it" >&2; fi; \
fi;
endef

define NEED_FOR_FLEET
need iproute2 ip -V; \
need nftables nft --version; \
need socat socat -V;
endef

define NEED_FOR_DEB
need dpkg-dev dpkg-buildpackage --version; \
need debhelper test -x /usr/bin/dh; \
need dh-apparmor test -x /usr/bin/dh_apparmor; \
need dh-python test -x /usr/bin/dh_python3;
endef

define NEED_FOR_MACHINES
need mmdebstrap mmdebstrap --version; \
need lintian lintian --version; \
need cpio cpio --version; \
need qemu-system-x86 qemu-system-x86_64 --version;
endef

define NEED_FOR_MATRIX
need qemu-system-arm qemu-system-aarch64 --version; \
need qemu-user-static test -x /usr/bin/qemu-aarch64-static; \
need arch-test test -x /usr/bin/arch-test;
endef

define INSTALL_MISSING
if (($${#missing[@]} == 0)); then exit 0; fi; \
install=(apt-get install --yes --no-install-recommends "$${missing[@]}"); \
if ! command -v apt-get >/dev/null; then \
	echo "setup: missing, by their Debian names: $${missing[*]}. There is no apt-get here: install them your way" >&2; \
elif [[ -z "$(ROOT)" ]]; then \
	echo "setup: not root, and missing: $${missing[*]}. Install with: sudo $${install[*]}" >&2; \
else \
	echo "setup: installing $${missing[*]}" >&2; \
	export DEBIAN_FRONTEND=noninteractive; \
	"$${install[@]}" </dev/null >&2 || { apt-get update </dev/null >&2 && "$${install[@]}" </dev/null >&2; }; \
fi
endef

HELPER := agent/restart/helper/ckptree-rebuild

# An installed package has its byte code; an editable one has none where the environment forbids Python to write it, as that of
# many containers does, and each command then compiles the modules that it imports: 0.15 s of a restart with contents.
BYTECODE := build/.bytecode

# All C files but those of bpf/include, where bcc finds what a kernel's own would have.
C_FILES := $(foreach place,agent/restart/helper bpf tests/bench tests/hostile tests/live tests/support,$(wildcard $(place)/*.[ch]))

# What a wheel is made of. It is built from a copy: the compiled form of the table would else lie beside its modules, and a checkout
# would run it.
BUILT_FROM := agent bpf exporters manual hatch_build.py pyproject.toml README.md LICENSE

# What a Debian package is made of, beside the wheels.
PACKAGED := debian docs systemd README.md SECURITY.md CHANGELOG.md

.PHONY: help check coverage lint style setup packages packages-browser packages-criu packages-fleet packages-deb packages-machines demo test man docs deb test-deb test-systemd matrix torture soak bench hostile crashes fuzz fuzz-api fuzz-criu fuzz-recording clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

setup: $(STAMP) $(HELPER) $(BYTECODE)

$(BYTECODE): $(shell find agent bpf exporters -name '*.py') | $(STAMP)
	@$(BIN)/python -m compileall -q agent bpf exporters
	@mkdir -p $(@D)
	@touch $@

# Installing compiles it too; this is for when a source has changed since.
$(HELPER): $(wildcard agent/restart/helper/*.[ch] agent/restart/helper/*.ld) hatch_build.py | $(STAMP)
	@$(BIN)/python hatch_build.py

packages:
	@$(NEED) $(NEED_FOR_SETUP) $(INSTALL_MISSING)
	@$(NEED) $(NEED_FOR_CRIT) $(INSTALL_MISSING)

packages-browser:
	@($(NEED) $(NEED_FOR_BROWSER) $(INSTALL_MISSING)) \
		|| echo "setup: no browser could be installed: the tests of the page that -f html writes are left out" >&2

packages-criu: setup
	@$(BIN)/python -m tests.support.suitepackages $(CRIU_SUITE) >/dev/null \
		|| echo "setup: no criu could be fetched: the live tests that dump with it will fail" >&2

packages-fleet: setup
	@($(NEED) $(NEED_FOR_FLEET) $(INSTALL_MISSING)) || echo "setup: no network namespaces could be made: a test of relays will fail" >&2
	@$(BIN)/python -m tests.support.suitepackages fleet >/dev/null \
		|| echo "setup: no servers could be fetched: the tests of stores will fail" >&2

packages-deb:
	@$(NEED) $(NEED_FOR_DEB) $(INSTALL_MISSING)

packages-machines:
	@$(NEED) $(NEED_FOR_MACHINES) $(INSTALL_MISSING)

$(STAMP): pyproject.toml | packages
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1 \
		|| ! grep -qx 'include-system-site-packages = true' $(VENV)/pyvenv.cfg \
		|| ! grep -qxF 'home = $(patsubst %/,%,$(dir $(SYSTEM_PYTHON)))' $(VENV)/pyvenv.cfg \
		|| ! head -1 $(BIN)/pip | grep -qF "$(CURDIR)/$(VENV)/bin/"; then \
		echo "setup: making $(VENV)" >&2; \
		$(SYSTEM_PYTHON) -m venv --clear --system-site-packages $(VENV); \
	fi
	@echo "setup: installing ckptree and what its checks need into $(VENV)" >&2
	@$(BIN)/python -m pip install --quiet --editable '.[dev]' </dev/null
	@$(BIN)/ckptree --help >/dev/null
	@touch $@

demo: setup
	@$(BIN)/python tests/demo/demo.py

lint: style
	$(BIN)/mypy

style: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(C_FILES)
	$(BIN)/lint-imports

# The types are checked beside the tests, and their findings come last: without its cache mypy takes seconds.
check: style
	@mkdir -p build
	@$(BIN)/mypy >build/types 2>&1 & types=$$!; \
	$(UNIT_TESTS) || failed=1; \
	wait $$types || failed=1; \
	cat build/types; \
	exit $${failed:-0}

coverage: setup
	@mkdir -p build/coverage
	$(UNIT_TESTS) --cov --cov-report=term

# The live tests look at the whole host, so they run alone; the others share the processors.
test: lint packages-browser packages-criu packages-fleet
	$(BIN)/pytest -m 'not live' -n auto --dist worksteal
ifneq ($(ROOT),)
	$(BIN)/pytest -m live
else
	@echo "test: not root: leaving out the live tests, which load BPF" >&2
endif

man: setup
	@$(BIN)/python -m manual build/share

docs: setup
	@$(BIN)/python -c 'import furo, myst_parser, sphinx' 2>/dev/null || $(BIN)/python -m pip install --quiet --editable '.[docs]' </dev/null
	@rm -rf build/docs
	$(BIN)/python -m sphinx -q -E -n -W --keep-going -b html -c docs -d build/doctrees . build/docs
	@echo "docs: open build/docs/index.html" >&2

# Wheels first, with the network; the package is built from them, without.
deb: setup packages-deb
	@rm -rf build/deb
	@mkdir -p build/deb/ckptree dist
	@cp -r $(PACKAGED) build/deb/ckptree/
	@mkdir build/deb/source
	@cp -r $(BUILT_FROM) build/deb/source/
	@HATCH_BUILD_HOOK_ENABLE_MYPYC=1 $(BIN)/python -m pip wheel --quiet --wheel-dir build/deb/ckptree/wheels 'build/deb/source[relay]' </dev/null
	@cd build/deb/ckptree && PIP="$(CURDIR)/$(BIN)/python -m pip" dpkg-buildpackage --build=binary --no-sign >../log 2>&1 </dev/null \
		|| { cat ../log >&2; exit 1; }
	@cp build/deb/*.deb dist/
	@ls -1 dist/*.deb

test-deb: deb packages-machines
	$(BIN)/pytest --timeout 3600 -m deb tests/service

test-systemd: deb packages-machines
	CKPTREE_MACHINE=1 $(BIN)/pytest --timeout 7200 -m 'machine or live' tests/service

# An hour and more, and a gigabyte for each distribution. Those whose names end in -here take a minute, on the running kernel.
matrix: setup packages-machines
	@$(NEED) $(NEED_FOR_MATRIX) $(INSTALL_MISSING)
	$(BIN)/python -m tests.matrix $(CELLS)

torture: setup
	$(BIN)/python -m tests.bench.torture --storms $(STORMS) --write
	$(BIN)/python -m tests.bench.loss --write
	$(BIN)/python -m tests.bench.following --write
	$(BIN)/python -m tests.bench.recorded --write

soak: setup
	$(BIN)/python -m tests.bench.soak --duration $(DURATION) --write

bench: setup
	$(BIN)/python -m tests.bench.everything --write
	$(BIN)/python -m tests.bench.bench_again
	$(BIN)/python -m tests.bench.bench_plan
	$(BIN)/python -m tests.bench.bench_verbs

hostile: setup
	$(BIN)/python -m tests.hostile.everything --seconds $(SECONDS_EACH)

crashes: setup
	CKPTREE_KILLS=100 CKPTREE_SEEDS=20 $(BIN)/pytest --timeout 7200 tests/live/test_handover.py -k 'storm or again'
	CKPTREE_KILLS=100 $(BIN)/pytest --timeout 7200 tests/live/test_recorder_broken.py -k killed

fuzz: setup
	$(BIN)/python -m tests.fuzz.fuzz_image --plain -runs=$(RUNS)

fuzz-api: setup
	$(BIN)/python -m tests.fuzz.fuzz_api -runs=$(RUNS)

fuzz-criu: setup
	$(BIN)/python -m tests.fuzz.fuzz_criu -runs=$(RUNS)

fuzz-recording: setup
	$(BIN)/python -m tests.fuzz.fuzz_recording -runs=$(RUNS)

clean:
	rm -rf $(VENV) agent/restart/helper/ckptree-* build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
