#!/bin/bash
# The ssh key of this lab alone.
. "$(dirname "$0")/common.sh"
ssh-keygen -q -t ed25519 -N '' -C rxl-lab -f "$out/id_ed25519"
