#!/bin/sh
# Writes the manual page and the completion scripts that a package installs, by the program that
# was built: examples/generate.sh target/release
set -eu

dir=${1:?the directory of the program}
mkdir -p "$dir/generated"
"$dir/strata_exporter" man >"$dir/generated/strata_exporter.1"
"$dir/strata_exporter" completion bash >"$dir/generated/strata_exporter.bash"
"$dir/strata_exporter" completion zsh >"$dir/generated/_strata_exporter"
"$dir/strata_exporter" completion fish >"$dir/generated/strata_exporter.fish"
