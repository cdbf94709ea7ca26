#!/usr/bin/env bash
# Sets up the virtual environment that `make` works in: scripts/setup.sh FOLDER
#
# What the machine lacks is installed by apt-get when this runs as root; otherwise it says what is
# missing and what is left out for it, and goes on where that is possible.  $PYTHON chooses the
# Python (3.11 or newer) that a new environment is made of.
set -euo pipefail

cd "$(dirname "$0")/.."
venv=${1:?usage: setup.sh FOLDER}

say() { printf 'setup: %s\n' "$*" >&2; }

# Installs Debian packages if that is possible; otherwise fails.
install() {
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        return 1
    fi
    say "installing $*"
    export DEBIAN_FRONTEND=noninteractive
    if ! compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null; then
        apt-get -q update >&2 || return 1
    fi
    if ! apt-get -qy install --no-install-recommends "$@" >&2; then
        apt-get -q update >&2 && apt-get -qy install --no-install-recommends "$@" >&2
    fi
}

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# The Python to make the environment of.
find_python() {
    local name
    for name in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if command -v "$name" >/dev/null && is_new_enough "$name"; then
            command -v "$name"
            return
        fi
    done
    return 1
}

# Whether `python3 -m venv` works: Debian keeps a part of it in a package of its own.
has_venv() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

make_venv() {
    local python version
    if ! python=$(find_python); then
        install python3 python3-venv || true
        python=$(find_python) || {
            say "there is no Python 3.11 or newer (${PYTHON:-python3}): install one, or set PYTHON to it"
            exit 1
        }
    fi
    if ! has_venv "$python"; then
        version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
        install "$version-venv" || install python3-venv || true
        has_venv "$python" || {
            say "$python cannot make virtual environments: as root, apt-get install $version-venv"
            exit 1
        }
    fi
    say "making $venv of $python"
    "$python" -m venv --clear "$venv"
}

has_compiler() { command -v "${CC:-gcc}" >/dev/null; }
has_c_headers() { echo '#include <stdlib.h>' | "${CC:-gcc}" -E - >/dev/null 2>&1; }
has_python_headers() {
    "$venv/bin/python" -c '
import pathlib, sys, sysconfig
sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").is_file())'
}

# The engine REM has a part in C.
prepare_compiler() {
    local missing=() version
    has_compiler || missing+=(gcc)
    has_compiler && has_c_headers || missing+=(libc6-dev)
    if ! has_python_headers; then
        version=$("$venv/bin/python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
        missing+=("$version-dev")
    fi
    if [ ${#missing[@]} = 0 ] || install "${missing[@]}"; then
        return
    fi
    say "missing: ${missing[*]} (as root: apt-get install ${missing[*]})"
    say "left out: the native part of the engine REM, and the tiny guest; everything else is set up"
}

[ -x "$venv/bin/python" ] && "$venv/bin/python" -c 'import pip' 2>/dev/null || make_venv
prepare_compiler

# One pip for all of them, so that they find each other and not the package index; without build
# isolation, so that building again needs no network.
pip=("$venv/bin/python" -m pip --disable-pip-version-check install --quiet)
packages=(-e 'vbox_pdm[testing]' -e vbox_vmm)
for project in plugins/*/pyproject.toml; do
    packages+=(-e "$(dirname "$project")")
done
say "installing tools and packages into $venv"
"${pip[@]}" -r requirements-dev.txt
"${pip[@]}" --no-build-isolation "${packages[@]}"
if "$venv/bin/python" -c 'import vbox_vmm.rem._native' 2>/dev/null; then
    touch "$venv/.set-up"
    say "done"
else
    # Not marked as done: the next run looks again whether there is a compiler by then.
    say "done, without the native part of the engine REM: \`vbox plugins\` says what that means"
fi
