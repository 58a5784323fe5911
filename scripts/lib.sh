# Shared by the scripts beside it and the Makefile; sourced, with the checkout as $checkout.
#
# What it gives them, mostly through `prepare`: an interpreter ($python), the packages that are
# missing, a virtual environment, and an installation into it.  It changes the system only through
# apt-get and modprobe, and says so before.  POSIX sh; written for `set -eu`.
# shellcheck shell=sh

venv="${checkout:?must be set by the script}/.venv"
missing=''

say() {
    printf '%s\n' "$*"
}

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# Run a command silently; show what it said only if it fails.
quietly() {
    quiet_log=$(mktemp)
    if "$@" >"$quiet_log" 2>&1 </dev/null; then
        rm -f "$quiet_log"
    else
        cat "$quiet_log" >&2
        rm -f "$quiet_log"
        return 1
    fi
}

# prepare EXTRA: all that is noted as needed, and pysshfs with this extra (may be empty) in $venv.
prepare() {
    find_python
    need_build
    install_missing
    check_build
    provide_fuse_device
    provide_venv
    install_editable "$1"
}

# --- the interpreter -----------------------------------------------------------------------------

# Print the full path of an interpreter if it is there, runs, and is new enough.
usable_python() {
    "$1" -c 'import sys; print(sys.executable); sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# Set $python: $PYTHON if that is set, else python3, else the newest known one.
find_python() {
    if [ -n "${PYTHON:-}" ]; then
        python=$(usable_python "$PYTHON") || die "PYTHON=$PYTHON is not a Python 3.11 or newer"
        return
    fi
    for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
        python=$(usable_python "$candidate") && return
    done
    if [ "${1:-}" != again ] && ! command -v python3 >/dev/null && command -v apt-get >/dev/null; then
        need python3 'the interpreter'
        install_missing
        find_python again
        return
    fi
    die 'no Python 3.11 or newer found; install one, or name it: PYTHON=/path/to/python3'
}

# --- packages ------------------------------------------------------------------------------------

# need PACKAGE WHY: note a package to install.
need() {
    missing="$missing
$1 ($2)"
}

# need_program PROGRAM PACKAGE WHY: note the package unless the program is there.
need_program() {
    # Some systems leave the sbin directories out of PATH for users.
    PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin" command -v "$1" >/dev/null || need "$2" "$3"
}

missing_names() {
    say "$missing" | sed -n 's/ (.*//p' | sort -u | tr '\n' ' '
}

# Install what was noted, if anything was.
install_missing() {
    [ -n "$missing" ] || return 0
    names=$(missing_names)
    command -v apt-get >/dev/null ||
        die "please install these, under whatever name they have here:$missing"
    if [ "$(id -u)" = 0 ]; then
        as_root=''
    elif command -v sudo >/dev/null; then
        as_root=sudo
    else
        die "neither root nor sudo; please install as root: apt-get install $names"
    fi
    say "Installing with apt-get: $(say "$missing" | sed '/^$/d' | sort -u | paste -s -d ';' | sed 's/;/; /g')"
    # An outdated list of one source does not matter unless the installation fails, too.
    quietly apt_get update -q || say 'apt-get update failed; trying with the lists there are.'
    # Names of packages: to be split.
    # shellcheck disable=SC2086
    quietly apt_get install -y -q --no-install-recommends $names ||
        die "could not install: $names"
    missing=''
}

apt_get() {
    # shellcheck disable=SC2086 # empty for root
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 "$@"
}

# Note what is needed to build and to run pysshfs.  $python must be set.
need_build() {
    need_program pkg-config pkg-config 'finds libfuse for the build'
    has_libfuse || need libfuse3-dev 'pyfuse3 is built against it'
    has_compiler || need 'gcc libc6-dev' 'compiles pyfuse3 and the extension'
    has_headers || need "python$(python_version)-dev" "headers of $python"
    has_venv || need "python$(python_version)-venv" 'makes the virtual environment'
    need_program fusermount3 fuse3 'mounts for ordinary users'
}

# Note what the tests need besides.
need_tests() {
    need_program sshd openssh-server 'tests start servers of their own; Debian starts one, too'
    need_program ssh openssh-client 'the other end of it'
    need_program rsync rsync 'tests use it on mounts'
    need_program git git 'tests use it on mounts'
    need_program make make 'tests use it on mounts'
    need_program sqlite3 sqlite3 'tests use it on mounts'
    need_program systemctl systemd 'tests boot it, in namespaces of its own'
    need_program strace strace 'a test watches which files a mount opens'
}

# After the installation: say plainly what a compiler or pip would say in many lines.
check_build() {
    has_libfuse || die 'libfuse 3 is still not found by pkg-config; is PKG_CONFIG_PATH right?'
    has_compiler || die 'the C compiler does not work; is CC right?'
    has_headers || die "$python has no C headers (Python.h); install them, or choose another PYTHON"
    has_venv || die "$python cannot make virtual environments (no ensurepip); choose another PYTHON"
}

has_libfuse() {
    pkg-config --exists fuse3 2>/dev/null
}

has_headers() {
    "$python" -c '
import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))'
}

has_venv() {
    "$python" -c 'import ensurepip, venv' 2>/dev/null
}

python_version() {
    "$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])'
}

# The compiler that extensions are built with: $CC, or the one the interpreter was built with.
has_compiler() {
    compiler=${CC:-$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("CC") or "cc")')}
    compiles "$compiler" && return
    # Where the interpreter comes from elsewhere, its compiler may be called otherwise.
    if [ -z "${CC:-}" ] && compiles gcc; then
        CC=gcc
        export CC
        return
    fi
    return 1
}

compiles() {
    scratch=$(mktemp -d)
    say '#include <stdio.h>
int main(void) { return puts("") < 0; }' >"$scratch/try.c"
    compiled=0
    # The compiler's name may come with options.
    # shellcheck disable=SC2086
    $1 "$scratch/try.c" -o "$scratch/try" 2>/dev/null || compiled=1
    rm -rf "$scratch"
    return $compiled
}

# Make /dev/fuse appear if that takes only loading the module.
provide_fuse_device() {
    [ ! -e /dev/fuse ] || return 0
    if [ "$(id -u)" = 0 ] && PATH="$PATH:/usr/sbin:/sbin" command -v modprobe >/dev/null; then
        say 'Loading the kernel module fuse, for there is no /dev/fuse.'
        PATH="$PATH:/usr/sbin:/sbin" modprobe fuse || :
    fi
    [ -e /dev/fuse ] || say 'There is no /dev/fuse: nothing can be mounted here (modprobe fuse, as root?).'
}

# sshd insists on this directory, and it is made at boot only where sshd was installed before.
provide_sshd_directory() {
    if [ "$(id -u)" = 0 ] && [ ! -d /run/sshd ]; then
        mkdir -m 0755 /run/sshd
    fi
}

# --- the virtual environment ---------------------------------------------------------------------

# Make $venv with $python, or keep the one that is there and works.
provide_venv() {
    if healthy_venv; then
        return
    elif [ -e "$venv" ]; then
        say "Making $venv anew: it is broken, or belongs to another Python."
    else
        say "Making $venv."
    fi
    rm -rf "$venv"
    quietly "$python" -m venv "$venv" || die "could not make $venv"
}

healthy_venv() {
    [ -x "$venv/bin/python" ] || return 1
    # What makes a virtual environment follow its interpreter, asked of both.
    identity='import sys; print(sys.base_prefix, sys.version_info[:2])'
    [ "$("$venv/bin/python" -c "$identity" 2>/dev/null)" = "$("$python" -c "$identity")" ] || return 1
    # By its own script, which names the interpreter: wrong when the checkout has been moved.
    case $("$venv/bin/pip" --version 2>/dev/null) in
    *"$venv/"*) ;;
    *) return 1 ;;
    esac
}

# install_editable EXTRA: the checkout into $venv, unless it is there just like this.
install_editable() {
    extra=$1
    stamp="$venv/.installed${extra:+-$extra}"
    wanted=$(cd "$checkout" && cksum pyproject.toml setup.py pysshfs/fuse/*.c)
    if [ -r "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && works; then
        return
    fi
    say "Installing pysshfs and what it depends on into $venv (takes a minute the first time)."
    quietly "$venv/bin/python" -m pip --disable-pip-version-check --no-input install -q \
        -e "$checkout${extra:+[$extra]}" || die 'the installation failed; see above'
    works || "$venv/bin/python" -c 'import pysshfs.fuse.binding' || die 'the installed pysshfs does not start'
    printf '%s\n' "$wanted" >"$stamp"
}

# Whether the compiled parts are there and fit.
works() {
    "$venv/bin/python" -c 'import pysshfs.fuse.binding' 2>/dev/null
}

# --- installing for all users --------------------------------------------------------------------

# install_program PREFIX DESTDIR: a virtual environment in PREFIX/lib/pysshfs, its commands in
# PREFIX/bin; all of it below DESTDIR for now, and to be moved from there.
install_program() {
    home="$1/lib/pysshfs"
    staged="$2$home"
    case $1 in
    /*) ;;
    *) die 'PREFIX must be an absolute path' ;;
    esac
    [ ! -e "$staged" ] || [ -e "$staged/pyvenv.cfg" ] || die "$staged is there, and is something else"
    umask 022
    mkdir -p "$2$1/lib" "$2$1/bin"
    rm -rf "$staged"
    say "Installing into $staged."
    # From a copy: a build leaves files behind, which here might come to belong to root.
    sources=$(mktemp -d)
    (cd "$checkout" && cp -R pyproject.toml setup.py README.md LICENSE pysshfs "$sources")
    rm -f "$sources"/pysshfs/*/*.so
    if ! quietly "$python" -m venv "$staged" ||
        ! quietly "$staged/bin/python" -m pip --disable-pip-version-check --no-input install -q \
            --no-compile "$sources"; then
        rm -rf "$sources"
        die 'the installation failed; see above'
    fi
    rm -rf "$sources"
    if [ -n "$2" ]; then
        # Scripts name their interpreter by its full path.
        grep -rlI --exclude-dir=lib -e "$staged" "$staged" | while IFS= read -r file; do
            sed "s|$staged|$home|g" "$file" >"$file.new"
            cat "$file.new" >"$file" # keeps the mode
            rm "$file.new"
        done
    fi
    "$staged/bin/python" -m compileall -q -s "$2" "$staged/lib" >/dev/null || :
    for command in pysshfs pysshfsctl; do
        ln -sf "../lib/pysshfs/bin/$command" "$2$1/bin/$command"
    done
    say "Installed: $2$1/bin/pysshfs and $2$1/bin/pysshfsctl."
}

# uninstall_program PREFIX DESTDIR
uninstall_program() {
    for command in pysshfs pysshfsctl; do
        link="$2$1/bin/$command"
        if [ "$(readlink "$link")" = "../lib/pysshfs/bin/$command" ]; then
            rm -f "$link"
        fi
    done
    if [ -e "$2$1/lib/pysshfs/pyvenv.cfg" ]; then
        rm -rf "$2$1/lib/pysshfs"
    fi
}

# --- the helpers of mount(8) ---------------------------------------------------------------------

# install_helpers PREFIX DESTDIR SBINDIR: the links by which mount(8) finds its helper.
install_helpers() {
    helper="$1/lib/pysshfs/bin/mount.pysshfs"
    if [ -z "$2" ] && [ ! -w "$3" ]; then
        say "Not installed: the helpers of mount(8), for which $3 would have to be writable."
        return 0
    fi
    mkdir -p "$2$3"
    ln -sf "$helper" "$2$3/mount.pysshfs"
    ln -sf mount.pysshfs "$2$3/mount.fuse.pysshfs"
    say "Installed: $2$3/mount.pysshfs and $2$3/mount.fuse.pysshfs."
}

# uninstall_helpers PREFIX DESTDIR SBINDIR
uninstall_helpers() {
    if [ "$(readlink "$2$3/mount.pysshfs")" = "$1/lib/pysshfs/bin/mount.pysshfs" ]; then
        rm -f "$2$3/mount.pysshfs"
        if [ "$(readlink "$2$3/mount.fuse.pysshfs")" = mount.pysshfs ]; then
            rm -f "$2$3/mount.fuse.pysshfs"
        fi
    fi
}

# --- the units of systemd ------------------------------------------------------------------------

# install_units PREFIX DESTDIR: the template services, which name the commands of this PREFIX.
install_units() {
    for kind in system user; do
        place="$1/lib/systemd/$kind"
        mkdir -p "$2$place"
        sed -e "/^Exec/s|=pysshfs|=$1/bin/pysshfs|" -e "/^Exec/s|exec pysshfs|exec $1/bin/pysshfs|" \
            "$checkout/contrib/systemd/$kind/pysshfs@.service" >"$2$place/pysshfs@.service"
        chmod 0644 "$2$place/pysshfs@.service"
        say "Installed: $2$place/pysshfs@.service."
    done
    case $1 in
    /usr | /usr/local) ;;
    *) say "systemd does not look there: systemctl link $1/lib/systemd/system/pysshfs@.service" ;;
    esac
    say 'systemd reads them at the next boot, or: systemctl daemon-reload.'
}

# uninstall_units PREFIX DESTDIR
uninstall_units() {
    for kind in system user; do
        rm -f "$2$1/lib/systemd/$kind/pysshfs@.service"
    done
}
