# Boots systemd as the first process of its own PID, mount, cgroup, IPC and UTS namespaces, on an overlay
# of this machine's root: nothing that happens inside is written anywhere.  tests/support/sandbox.py starts
# this by `unshare --mount`, as root, and has the rest of the tools.  The network is the machine's.
#
#   sandbox.sh outer|inner TOP CGROUP DIRECTORY...
#
# TOP is an empty directory to mount the root on; CGROUP the name of the cgroup to make.  Each DIRECTORY is
# to be seen inside at the same path: `path` for looking at, `path=rw` for writing.  TOP/etc, where there is
# such a file tree, is copied over /etc.
#
# Never boot systemd on the machine's own root: systemd-tmpfiles empties /tmp, udev fires at every device.
set -eu
step=$1 top=$2 cgroup=$3

outer() {
    mount --make-rprivate /
    # A cgroup of our own: systemd makes and kills cgroups below the one that it finds itself in.
    mkdir "$top/cgroup"
    mount -t cgroup2 cgroup2 "$top/cgroup"
    mkdir "$top/cgroup/$cgroup"
    echo $$ >"$top/cgroup/$cgroup/cgroup.procs"
    umount "$top/cgroup"
    shift
    exec unshare --fork --pid --mount --cgroup --ipc --uts --kill-child=KILL sh "$0" inner "$@"
}

inner() {
    shift 3
    root=$top/layers/root
    mkdir "$top/layers"
    mount -t tmpfs -o mode=0755 tmpfs "$top/layers"
    mkdir "$top/layers/upper" "$top/layers/work" "$root"
    mount -t overlay overlay \
        -o "lowerdir=/,upperdir=$top/layers/upper,workdir=$top/layers/work" "$root"
    mount -t tmpfs -o mode=0755 tmpfs "$root/run"
    mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
    for each in "$@"; do
        directory=${each%=rw}
        mkdir -p "$root$directory"
        mount --bind "$directory" "$root$directory"
        [ "$each" != "$directory" ] || mount -o remount,bind,ro "$root$directory"
    done
    kernel_filesystems
    own_devices
    own_units
    cd "$root"
    mkdir -p .outside
    pivot_root . .outside
    exec chroot . env -i container=pysshfs-tests PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        sh -c 'umount -l /.outside && rmdir /.outside && exec /lib/systemd/systemd --system \
            --unit=sandbox.target --show-status=0 --log-level=info </dev/null'
}

kernel_filesystems() {
    mount -t proc proc "$root/proc"
    mount --bind "$root/proc/sys" "$root/proc/sys"
    mount -o remount,bind,ro "$root/proc/sys"
    mount -t sysfs -o ro sysfs "$root/sys"
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
    mount -t fusectl none "$root/sys/fs/fuse/connections"
}

# The machine's own /dev would get journald's /dev/log.
own_devices() {
    dev=$top/layers/dev
    mkdir "$dev"
    mount -t tmpfs -o mode=0755 tmpfs "$dev"
    for each in null zero full random urandom tty autofs; do
        [ -e "/dev/$each" ] || continue
        : >"$dev/$each"
        mount --bind "/dev/$each" "$dev/$each"
    done
    # As udev has it; the machine's own may be for root alone.
    mknod -m 0666 "$dev/fuse" c 10 229
    : >"$dev/console"
    mount --bind /dev/null "$dev/console"
    mkdir "$dev/pts" "$dev/shm"
    mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts "$dev/pts"
    mount -t tmpfs -o mode=1777 tmpfs "$dev/shm"
    ln -s pts/ptmx "$dev/ptmx"
    ln -s /proc/self/fd "$dev/fd"
    for each in 0:stdin 1:stdout 2:stderr; do
        ln -s "/proc/self/fd/${each%:*}" "$dev/${each#*:}"
    done
    mount --rbind "$dev" "$root/dev"
}

# Nothing of what this machine starts at boot, but the journal.
own_units() {
    rm -rf "$root/etc/systemd" "$root/etc/init.d" "$root"/etc/rc?.d "$root/etc/fstab" "$root/etc/xdg/systemd"
    for each in "$root"/usr/lib/systemd/system/*.wants "$root"/lib/systemd/system/*.wants; do
        [ ! -d "$each" ] || rm -rf "$each"
    done
    mkdir -p "$root/etc/systemd/system"
    wants=$root/usr/lib/systemd/system/sysinit.target.wants
    mkdir "$wants"
    for each in systemd-journald.service systemd-journald-dev-log.socket; do
        ln -s "../$each" "$wants/$each"
    done
    [ ! -d "$top/etc" ] || cp -r "$top/etc/." "$root/etc/"
}

"$step" "$@"
