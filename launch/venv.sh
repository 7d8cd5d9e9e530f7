# Makes .venv beside the project and installs into it; sourced by run.sh and test.sh, which set EXTRAS first.
# Installs again only when setup.py has changed. EMBED_PYTHON names another Python.

cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
    local candidate
    for candidate in "${EMBED_PYTHON:-}" python3.11 python3.12 python3.13 python3 python; do
        # Asked, not only looked for: version managers leave commands behind that do not run.
        if [ -n "$candidate" ] && "$candidate" -c \
            'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "beam-embed needs Python 3.11, 3.12 or 3.13 with its venv module; EMBED_PYTHON=/path/to/python names one" >&2
    return 1
}

install_into_venv() {
    local python stamp
    # Asked for pip, which comes last: a set-up that was interrupted is begun again.
    [ -x .venv/bin/pip ] || { python=$(find_python); "$python" -m venv .venv; }
    # The version too: it stands in another file, and the installed metadata would stay behind.
    stamp="$PWD $EXTRAS $(cat setup.py beam_pipeline/version.py | cksum)"
    if [ "$(cat ".venv/installed$EXTRAS" 2>/dev/null)" != "$stamp" ]; then
        echo "beam-embed: installing into .venv (some minutes the first time)" >&2
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".$EXTRAS" >&2
        echo "$stamp" > ".venv/installed$EXTRAS"
    fi
}

install_into_venv
