//! What is run at the other end of ssh, where one command does what would take many: a shell and what every Debian has.

/// Tells what is at each path: a line that says it and a line with the path.
pub(super) const INSPECT: &str = r#"for p; do
if [ -L "$p" ]; then printf 'L %s\n%s\n' "$(readlink "$p")" "$p"
elif [ -d "$p" ]; then printf 'D %s\n%s\n' "$(stat -c %a "$p")" "$p"
elif [ -e "$p" ]; then printf 'F %s %s\n%s\n' "$(stat -c %a "$p")" "$(sha256sum <"$p" | cut -d' ' -f1)" "$p"
fi; done"#;

/// Puts standard input, of a known size, beside the file, gives it its mode, then puts it in the file's place: a
/// connection that breaks leaves what was there.
pub(super) const WRITE: &str = r#"set -e; umask 022; d=$(dirname "$1"); mkdir -p "$d"; umask 077
t=$(mktemp "$d/.cox.XXXXXX"); trap 'rm -f "$t"' EXIT
cat >"$t"; [ "$(stat -c %s "$t")" = "$3" ]; chmod "$2" "$t"; sync "$t" 2>/dev/null || true; mv -fT "$t" "$1""#;

/// Makes directories (`D mode path`), links (`L to path`) and files (`F mode path size`), whose contents are standard
/// input, one behind the other.
pub(super) const PUT: &str = r#"set -e; t=; trap '[ -z "$t" ] || rm -f "$t"' EXIT
while [ $# -gt 0 ]; do umask 022; case $1 in
D) mkdir -p "$3"; chmod "$2" "$3"; shift 3 ;;
L) mkdir -p "$(dirname "$3")"; ln -sfn "$2" "$3.new"; mv -fT "$3.new" "$3"; shift 3 ;;
F) d=$(dirname "$3"); mkdir -p "$d"; umask 077; t=$(mktemp "$d/.cox.XXXXXX"); head -c "$4" >"$t"
[ "$(stat -c %s "$t")" = "$4" ]; chmod "$2" "$t"; mv -fT "$t" "$3"; t=; shift 4 ;;
esac; done; sync -f /etc 2>/dev/null || true"#;

/// Says `same` if a program is there with this SHA-256 and mode 0755. A mark saves reading all of it the next time; with
/// a fourth argument, what is there was just written and is only marked.
pub(super) const PROGRAM: &str = r#"[ -f "$1" ] && [ "$(stat -c %a "$1")" = 755 ] || exit 0
m="$2 $(stat -c '%s %i %Y %Z' "$1")"; [ "$(cat "$3" 2>/dev/null)" = "$m" ] && echo same && exit 0
[ -n "$4" ] || [ "$(sha256sum <"$1" | cut -d' ' -f1)" = "$2" ] || exit 0
mkdir -p "$(dirname "$3")"; echo "$m" >"$3"; echo same"#;

/// Of packages, each with a file that it brings (`runc=/usr/sbin/runc`), prints those that are missing. A file that is
/// there without its package will do: somebody saw to it in another way.
pub(super) const MISSING: &str = r#"for e; do p=${e%%=*}; f=${e#*=}
[ -n "$f" ] && [ -e "$f" ] && continue
s=$(dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null || true)
[ "$s" = installed ] || echo "$p"; done"#;

/// Installs packages, without starting the packages' own services: those are ours to start. The first argument is a
/// directory that holds packages, which are then the only ones there are; or empty.
pub(super) const INSTALL: &str = r#"set -e; d=$1; shift
command -v apt-get >/dev/null || { echo "there is no apt-get; install by hand: $*" >&2; exit 1; }
r=/usr/sbin/policy-rc.d; m='# of cox, while it installs packages'
if [ ! -e "$r" ] || grep -qxF "$m" "$r"; then trap 'rm -f "$r"' EXIT; printf '#!/bin/sh\n%s\nexit 101\n' "$m" >"$r"; chmod 755 "$r"; fi
export DEBIAN_FRONTEND=noninteractive; o="-qq -o DPkg::Lock::Timeout=300"
if [ -n "$d" ]; then cd "$d"; mkdir -p lists/partial cache/archives/partial; rm -f Packages
for f in *.deb; do dpkg-deb -f "$f"; printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' "$f" "$(stat -c %s "$f")" "$(sha256sum <"$f" | cut -d' ' -f1)"
done >Packages.new; mv Packages.new Packages
echo "deb [trusted=yes] file:$d ./" >here.list
o="$o -o Dir::Etc::SourceList=$d/here.list -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists=$d/lists -o Dir::Cache=$d/cache -o APT::Sandbox::User=root"
fi
apt-get $o update >&2; apt-get $o -y --no-remove --no-install-recommends install "$@" >&2"#;

/// Loads modules where there are any, sets what differs; prints what it set.
pub(super) const KERNEL: &str = r#"for a; do case $a in
*=*) k=${a%%=*}; v=${a#*=}; f=/proc/sys/$(echo "$k" | tr . /)
[ -e "$f" ] && [ "$(tr '\t' ' ' <"$f")" != "$v" ] && printf %s "$v" 2>/dev/null >"$f" && echo "$k" ;;
*) modprobe -q "$a" 2>/dev/null ;;
esac; done; true"#;

/// Prints each service of ours (name, what it was started with, whether its unit is still as we wrote it), then what
/// systemd knows of them.
pub(super) const SERVICES: &str = r#"cd "$1" 2>/dev/null || exit 0; u=
for n in *; do [ -f "$n" ] || continue
read -r g w <"$n" || true; h=$(sha256sum 2>/dev/null </etc/systemd/system/"$n.service" | cut -d' ' -f1)
if [ "$w" = "$h" ]; then k=kept; else k=edited; fi
echo "service=$n $g $k"; u="$u $n.service"; done
[ -z "$u" ] || systemctl show -p Id,ActiveState,UnitFileState,NRestarts $u"#;

/// Writes the unit of a service, which is standard input, and starts it now and with its machine; notes what it was
/// started with.
pub(super) const START: &str = r#"set -e; umask 022; mkdir -p "$3"; rm -f "$3/$1"; u=/etc/systemd/system; f=$1.service
cat >"$u/.$f.new"; mv -fT "$u/.$f.new" "$u/$f"; mkdir -p "$u/multi-user.target.wants"
ln -sfn "$u/$f" "$u/multi-user.target.wants/$f"; systemctl daemon-reload; systemctl --no-block restart "$f"
printf '%s %s\n' "$2" "$(sha256sum <"$u/$f" | cut -d' ' -f1)" >"$3/$1""#;

/// Stops a service and forgets it.
pub(super) const REMOVE: &str = r#"set -e; systemctl -q disable --now "$1.service" || true
rm -f "$2" "$3/$1"; systemctl daemon-reload"#;
