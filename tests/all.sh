#!/bin/bash
# Installs what the tests need, then runs every check that a change must pass. A failed step does
# not stop the run: the end lists the failed steps, a table of times and the slowest tests.
#
# tests/nightly.sh has what takes too long for every change.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
# A user's PATH may lack the sbin directories.
export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

target=${CARGO_TARGET_DIR:-$PWD/target}
mkdir -p "$target"
export PATH=$target/tools/bin:$PATH
release=$target/release/strata_exporter
export CARGO_TERM_COLOR=never CARGO_INCREMENTAL=0

names=() times=() results=()

# step NAME COMMAND...: runs the command; records its time and its result.
step() {
    local name=$1 started=$SECONDS result=ok
    shift
    echo "== $name: $*"
    "$@" || result=FAILED
    names+=("$name") times+=($((SECONDS - started))) results+=("$result")
    echo "== $name: $result after $((SECONDS - started)) s"
    [[ $result == ok ]]
}

# Prints the times of all steps and the slowest tests; succeeds if no step failed.
summary() {
    local at failed=0
    echo
    echo "| step | seconds | result |"
    echo "|---|---:|---|"
    for at in "${!names[@]}"; do
        echo "| ${names[at]} | ${times[at]} | ${results[at]} |"
        [[ ${results[at]} == ok ]] || failed=1
    done
    echo "| total | $SECONDS | |"
    echo
    echo "The slowest tests, in seconds:"
    tests/slowest.py "$target/nextest/ci/junit.xml"
    return $failed
}

# Builds the tests with clippy as compiler of this workspace, as `cargo clippy` does, so that the
# dependencies and the workspace are not compiled once more for it.
with_clippy() {
    RUSTC_WORKSPACE_WRAPPER=clippy-driver RUSTFLAGS='-D warnings' "$@"
}

# The binary for a container image: the test build's libraries, linked statically.
static_binary() {
    with_clippy cargo rustc -p strata_exporter --bin strata_exporter -- -C target-feature=+crt-static &&
        install -D "$target/debug/strata_exporter" "$target/static/strata_exporter"
}

# Waits for the background installation of tools and virtual machine.
wait_for_setup() {
    wait "$setup" && return
    cat "$target/setup.log"
    return 1
}

step "packages" tests/setup.sh packages || { summary; exit 1; }

# Downloading packages for the virtual machine leaves CPUs idle: compile meanwhile. A process
# group of its own, so that an interrupted run ends all of it.
set -m
{ tests/setup.sh tools && tests/setup.sh machine; } >"$target/setup.log" 2>&1 &
setup=$!
set +m
trap 'kill -- "-$setup" 2>/dev/null' EXIT

step "format" cargo fmt --all --check
step "prose" cargo xtask prose
step "scripts" node --check src/web_ui/assets/page.js
step "release build" cargo build --release -p strata_exporter
step "clippy and test build" with_clippy cargo test --workspace --all-targets --no-run
step "static build" static_binary
step "tools and virtual machine" wait_for_setup
trap - EXIT
# Without advisories: their database is not in a package registry.
step "licences" cargo-deny check licenses bans sources

# Packaged and booted in the virtual machine: what is released, not the test build.
export STRATA_TEST_RELEASE=$release
if ((EUID == 0)); then
    # A test that cannot run is a failure.
    export STRATA_TEST_REQUIRE=1
else
    echo "== not root: tests that need it are skipped"
fi
step "tests" with_clippy cargo nextest run --workspace --profile ci
cp "$target/nextest/ci/junit.xml" "$target/junit.xml" 2>/dev/null
step "clippy and tests with libvirt's library" with_clippy cargo nextest run -p strata_exporter --features virt --profile ci \
    -E 'binary(strata_exporter) and test(/virt/) or test(/^libvirt_virt::/)'
cp "$target/junit.xml" "$target/nextest/ci/junit.xml" 2>/dev/null

# Guards against regressions; docs/benchmarks.md has the figures, which are of the dist build.
step "benchmark: host" benches/host.py --short --strata "$release"
step "benchmark: web config" benches/web_config.py --rounds 2 --strata "$release"
step "benchmark: soak" benches/soak.py --short --strata "$release"
if ((EUID == 0)); then
    for name in containers memory domains history; do
        step "benchmark: $name" "benches/$name.py" --short --strata "$release"
    done
fi

if summary; then
    echo "all passed in $SECONDS s"
else
    echo "failed:"
    for at in "${!names[@]}"; do
        [[ ${results[at]} == ok ]] || echo "    ${names[at]}"
    done
    exit 1
fi
