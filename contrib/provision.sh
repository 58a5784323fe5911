#!/bin/sh
# Work with a directory of another machine from a script that provisions this one: mount it, wait
# until it is there, work in it, unmount it.
#
#   provision.sh [user@]host:[dir] MOUNTPOINT [COMMAND [ARGUMENT...]]
#
# COMMAND runs in the mount; without one, the directory is listed.  The exit code is the command's,
# or that of pysshfs if there is no mount (the README has the table).  It may be run again at any
# time: after it was killed, when the mount is there already, or next to another run of itself.
#
# Nobody is asked anything: there may be no terminal, no agent, no HOME.  The key and the known hosts
# are named here, by absolute paths.  OPTIONS has more, for the -o of pysshfs.
set -eu

source=$1
mountpoint=$2
shift 2
options=${OPTIONS:-IdentityFile=/etc/pysshfs/id_ed25519,UserKnownHostsFile=/etc/pysshfs/known_hosts}

# How long the other machine may take to boot (seconds).
patience=${PATIENCE:-60}

# Returns when the mount answers.  Nothing mounted there: it mounts.  Mounted already: success, with a
# note.  A dead mount of an earlier run: it is cleaned up.  Something else: an error.  Of two at the
# same time one mounts, and the other finds it mounted.
# What may pass while a machine boots is exit code 4, "server not reachable"; the rest is final.
attach() {
    until pysshfs --if-not-mounted -o BatchMode=yes -o "$options" "$source" "$mountpoint" </dev/null
    do
        code=$?
        [ "$code" -eq 4 ] && [ "$patience" -gt 0 ] || return "$code"
        patience=$((patience - 1))
        sleep 1
    done
}

# Delivers what was written, unmounts, and waits for the end of the daemon.  It fails, and the script
# with it, if the server does not take everything.
detach() {
    cd /
    pysshfsctl umount "$mountpoint"
}

# Whatever happens, nothing stays behind; but the first failure is what the caller learns.
finish() {
    code=$?
    trap - EXIT
    detached=0
    detach || detached=$?
    [ "$code" -ne 0 ] || code=$detached
    exit "$code"
}

mkdir -p "$mountpoint"
attach || exit
trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

cd "$mountpoint"
if [ $# -gt 0 ]; then
    "$@"
else
    ls -l
fi
