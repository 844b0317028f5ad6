# Two commands are enough on a fresh machine: `make demo` and `make test`.
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
# made by test-deps; tests of the C example need it
export CODECSWAP_ORT ?= $(wildcard $(CURDIR)/.venv/onnxruntime)

.PHONY: demo test test-all test-deps docs check c wasm dist rknn executorch lock upgrade clean

demo: .venv/installed  ## the whole recipe on embedded data, offline
	$(BIN)/codecswap demo

test: .venv/installed  ## about 12 minutes on two cores
	$(BIN)/python -m pytest -n 2 -rs -m "not slow"

test-all: .venv/installed  ## the slow ones too
	$(BIN)/python -m pytest -n 2 -rs

# A C compiler for all platforms that the registry has: 100 MB.
ZIG := ziglang==0.17.1

# A browser, compilers (Zig for boards) and emulators; the C interface of ONNX Runtime; the runtime of the page. Without them such tests skip.
TEST_PACKAGES := chromium gcc clang lld libclang-rt-dev cmake valgrind libc6-dbg qemu-user libpng-dev libcjson-dev \
	gcc-aarch64-linux-gnu gcc-riscv64-linux-gnu gcc-s390x-linux-gnu gcc-arm-linux-gnueabihf \
	libc6-dev-arm64-cross libc6-dev-armhf-cross libc6-dev-riscv64-cross libc6-dev-s390x-cross
test-deps: .venv/installed  ## what tests need besides (Debian and Ubuntu; asks for root where packages are missing)
	dpkg --status $(TEST_PACKAGES) >/dev/null 2>&1 || { sudo=$$(test "$$(id -u)" = 0 || echo sudo); \
		$$sudo apt-get update -qq && $$sudo apt-get install -yqq --no-install-recommends $(TEST_PACKAGES); }
	dpkg --status openssh-server >/dev/null 2>&1 || { sudo=$$(test "$$(id -u)" = 0 || echo sudo); \
		$$sudo apt-get update -qq && $$sudo apt-get install -yqq --no-install-recommends openssh-server; \
		$$sudo systemctl disable --now ssh >/dev/null 2>&1 || true; }  # tests start their own, on loopback
	$(BIN)/python scripts/onnxruntime_c.py .venv/onnxruntime
	$(BIN)/python -m pip install --quiet $(ZIG)
	$(BIN)/python -c "from codecswap.page import onnxruntime_web; onnxruntime_web.load()"

docs: .venv/installed  ## the site of docs/ in site/; it needs no network
	$(BIN)/python -m scripts.site

c:  ## the library for boards: c/build/libcodecswap.a
	$(MAKE) -C c

wasm:  ## the same for browsers, which is kept in git: src/codecswap/page/codecswap.wasm (clang, lld)
	$(MAKE) -C c wasm

dist: .venv/installed  ## source distribution and wheels with the compiled coder, for Linux, macOS and Windows, in dist/
	$(BIN)/python -m pip install --quiet $(ZIG)
	$(BIN)/python -m scripts.wheels

# It pins old releases, so it has an environment of its own; what it asks for and does not need here is left out.
# Its license is Rockchip's: read it before you ship anything made with it.
RKNN := rknn-toolkit2==2.5.0 numpy==1.26.4 onnx==1.18.0 protobuf==4.25.4 "setuptools<81" opencv-python-headless \
	onnxruntime scipy psutil ruamel.yaml tqdm fast-histogram flatbuffers packaging typing_extensions filelock \
	sympy mpmath networkx jinja2 markupsafe fsspec coloredlogs humanfriendly
rknn:  ## Rockchip's compiler and simulator in .venv-rknn, 1.5 GB, for codecswap compile --target rk3588
	@test -n "$(PYTHON)" || { echo "rknn-toolkit2 needs Python 3.11 or 3.12: name one with make PYTHON=/path/to/python"; exit 2; }
	$(PYTHON) -m venv .venv-rknn
	.venv-rknn/bin/python -m pip install --quiet --no-deps $(RKNN)
	.venv-rknn/bin/python -m pip install --quiet --no-deps --extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0+cpu
	.venv-rknn/bin/python -c "from rknn.api import RKNN"

# It asks for NumPy 2, which CompressAI does not take; again, what it asks for and does not need here is left out.
EXECUTORCH := executorch==1.4.1 torchao==0.18.0 numpy==2.2.6 onnx==1.18.0 protobuf==7.36.2 flatbuffers packaging typing_extensions \
	filelock sympy mpmath networkx jinja2 markupsafe fsspec tabulate pyyaml ruamel.yaml
executorch:  ## ExecuTorch in .venv-executorch, 1.3 GB, for codecswap compile --target executorch
	@test -n "$(PYTHON)" || { echo "ExecuTorch needs Python 3.11 or 3.12: name one with make PYTHON=/path/to/python"; exit 2; }
	$(PYTHON) -m venv .venv-executorch
	.venv-executorch/bin/python -m pip install --quiet --no-deps $(EXECUTORCH)
	.venv-executorch/bin/python -m pip install --quiet --no-deps --extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0+cpu
	.venv-executorch/bin/python -c "import onnx; from executorch.runtime import Runtime"

check: .venv/installed  ## style, types and known vulnerabilities
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python scripts/audit.py

# The releases of requirements.lock, and no others: each file's hash is checked.
.venv/installed: pyproject.toml requirements.lock setup.py $(wildcard c/*.c c/*.h)
	@test -n "$(PYTHON)" || { echo "codecswap needs Python 3.11 or 3.12: install one, or name it with make PYTHON=/path/to/python"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .  # compiles the coder, where there is a compiler
	touch $@

LOCK := $(BIN)/uv pip compile pyproject.toml --quiet --all-extras --universal --python-version 3.11 --generate-hashes \
	--no-annotate --custom-compile-command "make lock" --output-file requirements.lock

lock:  ## after a change in pyproject.toml: locks what is new, keeps every other release as it is
	$(LOCK)

upgrade:  ## locks the newest releases that pyproject.toml allows (UV_CONSTRAINT=FILE holds some back)
	$(LOCK) --upgrade

clean:
	rm -rf .venv .venv-rknn .venv-executorch demo_run site c/build dist
