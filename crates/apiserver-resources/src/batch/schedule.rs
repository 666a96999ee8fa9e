//! Schedules in cron's format: whether one can be read.

/// One of the five fields: its word in errors, its bounds, and names for its values.
struct Part {
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const PARTS: [Part; 5] = [
    Part { min: 0, max: 59, names: &[] },
    Part { min: 0, max: 23, names: &[] },
    Part { min: 1, max: 31, names: &[] },
    Part { min: 1, max: 12, names: &MONTHS },
    Part { min: 0, max: 6, names: &DAYS },
];

/// Says why a schedule cannot be read.
pub(crate) fn problem(schedule: &str) -> Option<String> {
    if let Some(zoned) = schedule.strip_prefix("TZ=").or_else(|| schedule.strip_prefix("CRON_TZ=")) {
        let Some((zone, rest)) = zoned.split_once(' ') else {
            return Some(format!("provided bad location {zoned}"));
        };
        if jiff::tz::TimeZone::get(zone).is_err() && !matches!(zone, "Local" | "") {
            return Some(format!("provided bad location {zone}: unknown time zone {zone}"));
        }
        return problem(rest.trim());
    }
    if let Some(word) = schedule.strip_prefix('@') {
        if let Some(every) = word.strip_prefix("every ") {
            return (!is_duration(every))
                .then(|| format!("failed to parse duration {schedule}: time: invalid duration {every:?}"));
        }
        let known =
            ["yearly", "annually", "monthly", "weekly", "daily", "midnight", "hourly"].contains(&word);
        return (!known).then(|| format!("unrecognized descriptor: {schedule}"));
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != PARTS.len() {
        return Some(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    fields
        .iter()
        .zip(&PARTS)
        .find_map(|(field, part)| field.split(',').find_map(|range| range_problem(range, part)))
}

fn is_duration(text: &str) -> bool {
    let mut rest = text;
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        if digits == 0 {
            return false;
        }
        rest = &rest[digits..];
        let Some(unit) = ["ns", "us", "ms", "s", "m", "h"].iter().find(|u| rest.starts_with(**u)) else {
            return false;
        };
        rest = &rest[unit.len()..];
    }
    true
}

fn number(text: &str, part: &Part) -> Result<u32, String> {
    if let Some(i) = part.names.iter().position(|n| n.eq_ignore_ascii_case(text)) {
        return Ok(part.min + u32::try_from(i).unwrap_or(0));
    }
    text.parse().map_err(|_| {
        format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax")
    })
}

fn range_problem(range: &str, part: &Part) -> Option<String> {
    let (span, step) = match range.split_once('/') {
        Some((_, step)) if step.contains('/') => return Some(format!("too many slashes: {range}")),
        Some((span, step)) => (span, Some(step)),
        None => (range, None),
    };
    let bounds = (|| {
        if matches!(span, "*" | "?") {
            return Ok((part.min, part.max));
        }
        match span.split_once('-') {
            Some((_, end)) if end.contains('-') => Err(format!("too many hyphens: {range}")),
            Some((start, end)) => Ok((number(start, part)?, number(end, part)?)),
            None => {
                let start = number(span, part)?;
                Ok((start, if step.is_some() { part.max } else { start }))
            }
        }
    })();
    let (start, end) = match bounds {
        Ok(bounds) => bounds,
        Err(problem) => return Some(problem),
    };
    if let Some(step) = step {
        match step.parse::<u32>() {
            Ok(0) => return Some(format!("step of range should be a positive number: {range}")),
            Ok(_) => {}
            Err(_) => {
                return Some(format!(
                    "failed to parse int from {step}: strconv.Atoi: parsing {step:?}: invalid syntax"
                ));
            }
        }
    }
    if start < part.min {
        return Some(format!("beginning of range ({start}) below minimum ({}): {range}", part.min));
    }
    if end > part.max {
        return Some(format!("end of range ({end}) above maximum ({}): {range}", part.max));
    }
    (start > end).then(|| format!("beginning of range ({start}) beyond end of range ({end}): {range}"))
}

#[cfg(test)]
mod tests {
    use super::problem;

    #[test]
    fn good_schedules_have_no_problem() {
        for schedule in ["* * * * *", "*/5 0-4 1,15 jan-mar MON", "@hourly", "@every 1h30m", "0 0 31 12 6"] {
            assert_eq!(problem(schedule), None, "{schedule}");
        }
    }

    #[test]
    fn bad_schedules_say_why() {
        for (schedule, why) in [
            ("error", "expected exactly 5 fields, found 1: [error]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("@sometimes", "unrecognized descriptor: @sometimes"),
        ] {
            assert_eq!(problem(schedule).as_deref(), Some(why));
        }
    }
}
