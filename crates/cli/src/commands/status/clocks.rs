//! Whether the hosts' clocks agree: certificates, leases and etcd count on them.

/// Further apart than this shows, in milliseconds.
const BAD: i64 = 5_000;

/// Hosts whose clocks are off, with what to say of each. `ahead` is by how much each is ahead of ours, in milliseconds.
pub fn apart(ahead: &[(String, i64)]) -> Vec<(String, String)> {
    let mut all: Vec<i64> = ahead.iter().map(|(_, by)| *by).collect();
    all.sort_unstable();
    // Of two, ours tells which is off.
    let usual = match all.len() {
        0 => return Vec::new(),
        1 | 2 => 0,
        n => all[n / 2],
    };
    let others = if all.len() > 2 { "the other hosts'" } else { "this machine's" };
    let off = ahead.iter().filter(|(_, by)| (by - usual).abs() > BAD);
    off.map(|(host, by)| {
        let by = by - usual;
        let (seconds, how) = (by.abs() / 1000, if by < 0 { "behind" } else { "ahead of" });
        let text = format!(
            "its clock is {seconds} s {how} {others}: certificates may be \"not yet valid\" or expired for it, and \
             leases end early or late; let it follow a time server (`timedatectl set-ntp true`)"
        );
        (host.clone(), text)
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_off_is_told_from_who_is_not() {
        let check = |clocks: &[i64], want: &[(usize, &str)]| {
            let all: Vec<(String, i64)> =
                clocks.iter().enumerate().map(|(i, by)| (i.to_string(), *by)).collect();
            let got = apart(&all);
            assert_eq!(got.len(), want.len(), "{clocks:?}: {got:?}");
            for ((host, text), (index, words)) in got.iter().zip(want) {
                assert!(*host == index.to_string() && text.contains(words), "{clocks:?}: {text}");
            }
        };
        check(&[], &[]);
        check(&[0, 10, -20], &[]);
        check(&[0, 0, 9_000], &[(2, "9 s ahead of the other hosts'")]);
        // All agree, and we are off: nothing to say of them.
        check(&[60_000, 60_010, 60_020], &[]);
        check(&[60_000, 60_010, 0], &[(2, "60 s behind the other hosts'")]);
        check(&[0, -7_000], &[(1, "7 s behind this machine's")]);
    }
}
