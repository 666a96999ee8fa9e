//! Sets of indexes of an indexed job, as text: `1,3-5,7`.

/// Reads the intervals of a set; every index is below `completions`.
pub(super) fn parse(text: &str, completions: i64) -> Result<Vec<(i64, i64)>, String> {
    let mut intervals: Vec<(i64, i64)> = Vec::new();
    if text.is_empty() {
        return Ok(intervals);
    }
    for part in text.split(',') {
        let (first, last) = interval(part, completions)?;
        if let Some((_, before)) = intervals.last()
            && *before >= first
        {
            return Err(format!("non-increasing order, previous: {before}, current: {first}"));
        }
        intervals.push((first, last));
    }
    Ok(intervals)
}

fn interval(text: &str, completions: i64) -> Result<(i64, i64), String> {
    let ends: Vec<&str> = text.split('-').collect();
    let number = |end: &str| -> Result<i64, String> {
        let n = end.parse().map_err(|_| format!("cannot convert string to integer for index: {end:?}"))?;
        if n >= completions { Err(format!("too large index: {end:?}")) } else { Ok(n) }
    };
    match ends[..] {
        [one] => number(one).map(|n| (n, n)),
        [first, last] => {
            let (first, last) = (number(first)?, number(last)?);
            if first >= last {
                return Err(format!("non-increasing order, previous: {first}, current: {last}"));
            }
            Ok((first, last))
        }
        _ => Err(format!(
            "the fragment {text:?} violates the requirement that an index interval can have at most two parts separated by '-'"
        )),
    }
}

/// How many indexes a set has.
pub(super) fn size(intervals: &[(i64, i64)]) -> i64 {
    intervals.iter().map(|(first, last)| last - first + 1).sum()
}

/// The first index that is in both sets.
pub(super) fn overlap(a: &[(i64, i64)], b: &[(i64, i64)]) -> Option<i64> {
    a.iter().find_map(|(first, last)| {
        let both = b.iter().find(|(other, end)| first <= end && other <= last)?;
        Some(*first.max(&both.0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_read_and_bad_ones_say_why() {
        assert_eq!(parse("1,3-5,7", 8), Ok(vec![(1, 1), (3, 5), (7, 7)]));
        assert_eq!(size(&parse("1,3-5,7", 8).unwrap()), 5);
        assert_eq!(parse("", 8), Ok(vec![]));
        for (text, why) in [
            ("8", "too large index: \"8\""),
            ("a", "cannot convert string to integer for index: \"a\""),
            ("3-3", "non-increasing order, previous: 3, current: 3"),
            ("3,2", "non-increasing order, previous: 3, current: 2"),
            (
                "1-2-3",
                "the fragment \"1-2-3\" violates the requirement that an index interval can have at most two parts separated by '-'",
            ),
        ] {
            assert_eq!(parse(text, 8), Err(why.to_owned()));
        }
        assert_eq!(overlap(&[(0, 3)], &[(5, 6), (2, 2)]), Some(2));
        assert_eq!(overlap(&[(0, 3)], &[(4, 6)]), None);
    }
}
