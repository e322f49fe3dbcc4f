#!/bin/sh
# Pin every version with its hashes, for all supported Pythons and platforms, naming no index and no host.
set -eu
uv=${1:-uv}
here=$(dirname "$0")
flags="--quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url"
echo 'uv>=0.13' | $uv pip compile $flags -o "$here/bootstrap.txt" -
$uv pip compile $flags -o "$here/base.txt" "$here/../../pyproject.toml"
$uv pip compile $flags --overrides "$here/overrides.txt" --all-extras -o "$here/dev.txt" "$here/../../pyproject.toml"
