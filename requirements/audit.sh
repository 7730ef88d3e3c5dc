#!/bin/sh
# Asks the service of Python's package index for known vulnerabilities of what is pinned here.
#
# Exits 0 when there are none, 1 when there are, and 2 when not every package could be asked about: then
# nothing is known. It is no part of `make check`, which needs no network.
set -u
cd "$(dirname "$0")/.." || exit 2

said=$(.venv/bin/uv tool run pip-audit==2.10.1 --progress-spinner off --disable-pip --require-hashes \
  --requirement requirements/runtime.txt --requirement requirements/dev.txt 2>&1)
code=$?
unasked=$(printf '%s\n' "$said" | grep -c 'could not be audited')

case $said in
  *"known vulnerabilit"*"Fix Versions"*)
    printf '%s\n' "$said" | grep -v 'could not be audited'
    echo "audit: raise the bound in pyproject.toml or \`make lock UPGRADE='--upgrade-package NAME'\`, and say it in CHANGELOG.md"
    exit 1
    ;;
esac
if [ "$code" -ne 0 ] || [ "$unasked" -ne 0 ]; then
  printf '%s\n' "$said" | tail -n 3
  echo "audit: NOT DONE: the data on vulnerabilities (pypi.org's) cannot be had from here$([ "$unasked" -eq 0 ] || echo " for $unasked packages"); nothing is known about them"
  exit 2
fi
echo "audit: no known vulnerabilities in what requirements/ pins"
