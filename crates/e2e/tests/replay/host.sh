# Makes the namespaces it runs in a host of its own: NAME, its directory, then programs to have as NAME=FILE.
set -eu
name=$1 dir=$2
shift 2
for program; do
  touch "$dir/usr/local/bin/${program%%=*}"
  mount --bind "${program#*=}" "$dir/usr/local/bin/${program%%=*}"
done
hostname "$name"
ip link set lo up
# Only the cgroups of this host are seen: those that its first process was put into.
mkdir -p "$dir/sys"
mount -t sysfs sysfs "$dir/sys"
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
  mount -t cgroup2 cgroup2 "$dir/sys/fs/cgroup"
  mkdir "$dir/sys/fs/cgroup/init"
  echo $$ >"$dir/sys/fs/cgroup/init/cgroup.procs"
else
  mount -t tmpfs -o mode=755 cgroup "$dir/sys/fs/cgroup"
  while IFS=: read -r _ controllers _; do
    case $controllers in
      '') mkdir "$dir/sys/fs/cgroup/unified"; mount -t cgroup2 cgroup2 "$dir/sys/fs/cgroup/unified" ;;
      name=*) mkdir "$dir/sys/fs/cgroup/${controllers#name=}"
        mount -t cgroup -o "none,$controllers" cgroup "$dir/sys/fs/cgroup/${controllers#name=}" ;;
      *) mkdir "$dir/sys/fs/cgroup/$controllers"
        mount -t cgroup -o "$controllers" cgroup "$dir/sys/fs/cgroup/$controllers" ;;
    esac
  done </proc/self/cgroup
fi
mount --move "$dir/sys" /sys
for own in etc var/lib var/log opt usr/local/bin; do
  mkdir -p "/$own"
  mount --rbind "$dir/$own" "/$own"
done
# Programs that a guide has in /usr/bin stand before those of the machine.
mount -t overlay -o "lowerdir=$dir/usr/bin:/usr/bin" overlay /usr/bin
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock
echo 1 >/proc/sys/net/ipv4/ip_forward
touch "$dir/ready"
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount --make-rshared /
# Reaps whoever loses its parent.
exec /usr/local/bin/cox pause
