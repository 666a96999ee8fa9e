//! What someone may have meant.

/// How many letters have to be put in, taken out, replaced or swapped with their neighbours.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(before_last[j - 2] + 1);
            }
            row.push(least);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

/// The word that is nearest to what was written, if it is near at all.
pub fn suggestion<'a>(written: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Longer than any word there is: not worth the time.
    if written.len() > 64 {
        return None;
    }
    let plain = |text: &str| text.to_lowercase().replace(['-', '_'], "");
    let wanted = plain(written);
    words
        .map(|word| (distance(&wanted, &plain(word)), word))
        .filter(|(steps, word)| *steps <= (word.len() / 3).clamp(1, 3))
        .min_by_key(|(steps, _)| *steps)
        .map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_found_and_far_ones_are_not() {
        let check = |written: &str, want: Option<&str>| {
            let words = ["hosts", "network", "apiServer", "serviceCIDR", "podCIDR", "etcd"];
            assert_eq!(suggestion(written, words.into_iter()), want, "{written}");
        };
        check("host", Some("hosts"));
        check("netwrok", Some("network"));
        check("apiserver", Some("apiServer"));
        check("api-server", Some("apiServer"));
        check("service_cidr", Some("serviceCIDR"));
        check("podsCIDR", Some("podCIDR"));
        check("ectd", Some("etcd"));
        check("colour", None);
        check(&"x".repeat(1000), None);
    }
}
