#!/bin/sh
# Pin what pyproject.toml asks for, with hashes, for all supported Pythons, naming no index and no host.
# Versions that are pinned already stay: remove a line, or the file, to let it move.
set -eu
uv=${1:-uv}
here=$(dirname "$0")
flags="--quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url"
echo 'uv>=0.13' | $uv pip compile $flags -o "$here/bootstrap.txt" -
$uv pip compile $flags -o "$here/base.txt" "$here/../../pyproject.toml"
$uv pip compile $flags --overrides "$here/overrides.txt" --extra dev -o "$here/dev.txt" "$here/../../pyproject.toml"
