# Boots a machine with systemd and sshd in the namespaces it runs in: NAME, its directory, its address. What it sees of
# this machine's programs and settings is a copy on write; all else is its own.
set -eu
name=$1 dir=$2 address=$3
root=$dir/root
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p "$root"
cd "$root"
mkdir -p dev proc sys run tmp usr etc var root home mnt
for link in bin sbin lib lib64; do
  if [ -L "/$link" ] && [ ! -e "$link" ]; then ln -s "$(readlink "/$link")" "$link"; fi
done
layered() {
  mkdir -p "$dir/upper/$1" "$dir/work/$1" "$root/$1"
  mount -t overlay -o "lowerdir=/$1,upperdir=$dir/upper/$1,workdir=$dir/work/$1" overlay "$root/$1"
}
layered usr
layered etc
# What containers and databases lie on is no layer but a directory.
mkdir -p "$dir/var/lib/dpkg" "$dir/var/lib/apt" "$dir/var/log/journal" "$dir/var/tmp" "$dir/var/cache/apt/archives/partial"
mount --bind "$dir/var" "$root/var"
layered var/lib/dpkg
layered var/lib/apt
ln -sfn /run var/run

first_boot() {
  # No service of this machine's packages, no configuration of a cluster.
  rm -rf etc/systemd/system etc/rc?.d etc/cron* etc/sysctl.d etc/modules-load.d etc/containerd etc/cni etc/kubernetes \
    etc/nginx etc/haproxy etc/resolv.conf etc/hostname etc/fstab etc/machine-id usr/local/bin usr/sbin/policy-rc.d
  mkdir -p etc/systemd/system/multi-user.target.wants etc/systemd/system-generators etc/systemd/system.conf.d \
    etc/sysctl.d etc/modules-load.d usr/local/bin
  : >etc/resolv.conf
  : >etc/fstab
  echo "$name" >etc/hostname
  tr -d - </proc/sys/kernel/random/uuid >etc/machine-id
  printf '127.0.0.1 localhost\n%s %s\n' "$address" "$name" >etc/hosts
  for generator in usr/lib/systemd/system-generators/*; do
    ln -sfn /dev/null "etc/systemd/system-generators/${generator##*/}"
  done
  for unit in systemd-logind.service getty.target dbus.socket dbus.service systemd-tmpfiles-clean.timer \
    systemd-update-utmp.service systemd-update-utmp-runlevel.service systemd-user-sessions.service \
    systemd-binfmt.service systemd-repart.service systemd-firstboot.service systemd-sysusers.service \
    systemd-pcrphase.service systemd-pcrphase-sysinit.service systemd-random-seed.service systemd-hwdb-update.service \
    ldconfig.service dev-hugepages.mount; do
    ln -sfn /dev/null "etc/systemd/system/$unit"
  done
  printf '[Manager]\nDefaultTimeoutStopSec=5s\n' >etc/systemd/system.conf.d/machine.conf
  ln -sfn /usr/lib/systemd/system/multi-user.target etc/systemd/system/default.target
  cat >etc/systemd/system/wire.service <<END
[Unit]
Description=Cgroups and the wire
DefaultDependencies=no
Before=sshd.service network.target network-online.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh /etc/wire
END
  cat >etc/wire <<END
for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/*; do mount -o remount,bind,rw "\$hierarchy" 2>/dev/null; done
ip link set lo up
ip link set host0 up
ip addr add $address/24 dev host0
ip route add default via ${address%.*}.1
END
  cat >etc/systemd/system/sshd.service <<END
[Unit]
Description=sshd
[Service]
Type=notify
RuntimeDirectory=sshd
ExecStart=/usr/sbin/sshd -D -e -f /etc/ssh/machine
KillMode=process
END
  ln -sfn ../wire.service ../sshd.service etc/systemd/system/multi-user.target.wants/
  cat >etc/ssh/machine <<END
HostKey /etc/ssh/machine_key
AuthorizedKeysFile /etc/ssh/machine_users
UsePAM no
PermitRootLogin yes
PasswordAuthentication no
StrictModes no
MaxStartups 100
END
  install -m 600 "$dir/../host_key" etc/ssh/machine_key
  install -m 644 "$dir/../user_key.pub" etc/ssh/machine_users
  # One who may become root, and one who may not.
  printf 'admin:x:1500:1500::/home/admin:/bin/sh\nguest:x:1501:1501::/home/guest:/bin/sh\n' >>etc/passwd
  printf 'admin:x:1500:\nguest:x:1501:\n' >>etc/group
  printf 'admin:*:19000:0:99999:7:::\nguest:*:19000:0:99999:7:::\n' >>etc/shadow
  install -d -o 1500 -g 1500 home/admin
  install -d -o 1501 -g 1501 home/guest
  mkdir -p etc/sudoers.d
  echo 'admin ALL=(ALL) NOPASSWD: ALL' >etc/sudoers.d/machine
  chmod 440 etc/sudoers.d/machine
  touch "$dir/made"
}
[ -e "$dir/made" ] || first_boot

# It asks to be started again with this code.
code=133
while [ $code = 133 ]; do
  code=0
  systemd-nspawn --quiet --directory="$root" --machine="$name" --boot --network-bridge=br0 --register=no --keep-unit \
    --console=pipe --capability=all --system-call-filter='@keyring bpf' --resolv-conf=off --timezone=off \
    --link-journal=no >>"$dir/console" 2>&1 </dev/null || code=$?
done
exit $code
