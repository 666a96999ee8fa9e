//! Sets of completion indexes, as Jobs write them: `1,3-5,7`.
use std::collections::BTreeSet;

/// Completion indexes of an Indexed Job.
pub type Indexes = BTreeSet<i32>;

/// Reads the text; what makes no sense, or is not below `completions`, is left out.
pub fn parse(text: &str, completions: i32) -> Indexes {
    let mut set = Indexes::new();
    for part in text.split(',').filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
            set.extend(first.max(0)..=last.min(completions - 1));
        }
    }
    set
}

/// Writes the text; three neighbours and more become a range.
pub fn format(set: &Indexes) -> String {
    let mut text = String::new();
    let mut sorted = set.iter().copied().peekable();
    while let Some(first) = sorted.next() {
        let mut last = first;
        while let Some(next) = sorted.next_if_eq(&(last + 1)) {
            last = next;
        }
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(&match last - first {
            0 => first.to_string(),
            1 => format!("{first},{last}"),
            _ => format!("{first}-{last}"),
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for (set, text) in
            [(&[][..], ""), (&[3], "3"), (&[1, 2], "1,2"), (&[1, 3, 4, 5, 7], "1,3-5,7"), (&[0, 1, 2], "0-2")]
        {
            let set: Indexes = set.iter().copied().collect();
            assert_eq!(format(&set), text);
            assert_eq!(parse(text, 100), set);
        }
        assert_eq!(parse("1-9,x,20", 4), [1, 2, 3].into());
    }
}
