#!/bin/bash
# Builds all fuzz targets and runs each for a while, two at a time: see docs/development/fuzzing.md.
#
#     run.sh [SECONDS [TARGET...]]     default: 30 seconds, all targets
#
# Needs cargo-fuzz (tests/setup.sh tools). Failing inputs are printed in base64 and stored in fuzz/artifacts,
# and make this script fail. The corpus is stored in STRATA_FUZZ_CORPUS, if that is a directory, and reused by
# later runs.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/.."
seconds=${1:-30}
shift || true
target_dir=${CARGO_TARGET_DIR:-$PWD/target}
host=$(rustc -vV | sed -n 's/^host: //p')
export PATH="$target_dir/tools/bin:$PATH"

# Every input creates files and sockets: use memory if possible.
scratch=$(mktemp -d -p "$([[ -w /dev/shm ]] && echo /dev/shm || echo "${TMPDIR:-/tmp}")" strata-fuzz.XXXXXX)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch/tmp" "$scratch/logs" fuzz/artifacts

started=$SECONDS
# No sanitizer: it requires nightly Rust, and safe code does not have the errors it detects. Several codegen
# units instead of cargo-fuzz's one, which takes one CPU two minutes.
RUSTFLAGS="${RUSTFLAGS-} -Ccodegen-units=16" CARGO_INCREMENTAL=0 CARGO_TARGET_DIR="$target_dir/fuzz" \
    cargo fuzz build --sanitizer none
STRATA_FUZZ_SEEDS="$scratch/seeds" cargo test --quiet --lib seeds_are_written >/dev/null
echo "built in $((SECONDS - started)) s"

# fuzz TARGET: runs one target and prints the result in a line.
fuzz() {
    local target=$1 corpus log=$scratch/logs/$1 code=0
    corpus=${STRATA_FUZZ_CORPUS:-$scratch/corpus}/$target
    mkdir -p "$corpus" "$scratch/tmp/$target"
    TMPDIR="$scratch/tmp/$target" RUST_BACKTRACE=1 \
        "$target_dir/fuzz/$host/release/$target" \
        -max_total_time="$seconds" -max_len=12000 -timeout=10 -rss_limit_mb=512 \
        -artifact_prefix="fuzz/artifacts/$target-" -print_final_stats=1 \
        "$corpus" "$scratch/seeds/$target" >"$log" 2>&1 || code=$?
    rm -rf "$scratch/tmp/$target"
    awk -v target="$target" '
        $2 == "INITED" || $2 == "DONE" { for (i = 3; i < NF; i++) if ($i == "cov:") cov[$2] = $(i + 1) }
        $1 == "stat::number_of_executed_units:" { runs = $2 }
        $1 == "stat::peak_rss_mb:" { rss = $2 }
        END { printf "%-16s %9d runs  cov %5d -> %5d  %3d MB\n", target, runs, cov["INITED"], cov["DONE"], rss }
    ' "$log"
    if ((code)); then
        echo "== $target failed with $code"
        grep -av '^#[0-9]' "$log" | tail -n 60
        # Print the failing input and how to run it again.
        local failing_input
        failing_input=$(sed -n 's/.*Test unit written to //p' "$log" | head -n 1)
        if [[ -f $failing_input ]]; then
            echo "== as base64:"
            base64 "$failing_input"
            echo "== to reproduce: $target_dir/fuzz/$host/release/$target $failing_input"
        fi
        return 1
    fi
}

if (($#)); then
    targets=("$@")
else
    mapfile -t targets < <(cargo fuzz list)
fi
export -f fuzz
export seconds scratch target_dir host
# shellcheck disable=SC2016 # expanded by the inner shell
printf '%s\n' "${targets[@]}" | xargs -P 2 -I{} bash -c 'set -uo pipefail; fuzz "$1"' fuzz {}
