//! What is run at the other end of ssh, where one command does what would take many: a shell and what every Debian has.

/// Tells what is at each path: a line that says it and a line with the path.
pub(super) const INSPECT: &str = r#"for p; do
if [ -L "$p" ]; then printf 'L %s\n%s\n' "$(readlink "$p")" "$p"
elif [ -d "$p" ]; then printf 'D %s\n%s\n' "$(stat -c %a "$p")" "$p"
elif [ -e "$p" ]; then printf 'F %s %s\n%s\n' "$(stat -c %a "$p")" "$(sha256sum <"$p" | cut -d' ' -f1)" "$p"
fi; done"#;

/// Writes standard input beside the file, gives it its mode, then puts it in the file's place.
pub(super) const WRITE: &str = r#"set -e; umask 022; d=$(dirname "$1"); mkdir -p "$d"; umask 077
t=$(mktemp "$d/.cox.XXXXXX"); trap 'rm -f "$t"' EXIT
cat >"$t"; chmod "$2" "$t"; sync "$t" 2>/dev/null || true; mv -fT "$t" "$1""#;

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

/// Starts a service whose unit is there, now and with its machine; notes what it was started with.
pub(super) const START: &str = r#"set -e; mkdir -p "$3"; rm -f "$3/$1"
systemctl -q enable --no-reload "$1.service"; systemctl daemon-reload; systemctl --no-block restart "$1.service"
printf '%s %s\n' "$2" "$(sha256sum </etc/systemd/system/"$1.service" | cut -d' ' -f1)" >"$3/$1""#;

/// Stops a service and forgets it.
pub(super) const REMOVE: &str = r#"set -e; systemctl -q disable --now "$1.service" || true
rm -f "$2" "$3/$1"; systemctl daemon-reload"#;
