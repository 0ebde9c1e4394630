# Source this: activates the virtual environment .venv, made here first when none is active,
# and installs nlseg with the tested versions. Usage: source tools/environment.sh [EXTRA ...]
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [ -z "${VIRTUAL_ENV:-}" ] && [ -z "${CONDA_PREFIX:-}" ]; then
    if [ ! -x "$root/.venv/bin/python" ]; then
        echo "No virtual environment is active: making $root/.venv"
        python3 -m venv "$root/.venv"
    fi
    # shellcheck disable=SC1091
    source "$root/.venv/bin/activate"
fi
extras=""
for extra in "$@"; do extras="${extras:+$extras,}$extra"; done
echo "Installing nlseg${extras:+[$extras]} into ${VIRTUAL_ENV:-${CONDA_PREFIX:-}}"
python -m pip install --quiet --disable-pip-version-check \
    --constraint "$root/requirements/constraints.txt" --editable "$root${extras:+[$extras]}"
