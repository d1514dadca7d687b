#!/bin/sh
# hooks.sh install: makes git run the fast checks before each commit (`make hooks`).
# hooks.sh pre-commit: what then runs before the message is written.
# hooks.sh commit-msg FILE: what then runs on the message.
# `git commit --no-verify` goes without.
set -eu

root=$(git rev-parse --show-toplevel)
cd "$root"
export PYTHONDONTWRITEBYTECODE=1

install_hook() {
    hook=$(git rev-parse --git-path hooks)/$1
    if [ -e "$hook" ] && ! grep -q tests/lint/hooks.sh "$hook"; then
        echo "$hook is there already and is not ours: nothing is installed" >&2
        exit 1
    fi
    mkdir -p "$(dirname "$hook")"
    printf '#!/bin/sh\nexec tests/lint/hooks.sh %s "$@"\n' "$1" >"$hook"
    chmod +x "$hook"
    echo "installed $hook"
}

case ${1:-} in
install)
    install_hook pre-commit
    install_hook commit-msg
    ;;
pre-commit)
    cargo fmt --all --check
    python3 tests/lint/house.py columns docs links
    ;;
commit-msg)
    python3 tests/lint/house.py --message "$2"
    ;;
*)
    echo "usage: hooks.sh install | pre-commit | commit-msg FILE" >&2
    exit 2
    ;;
esac
