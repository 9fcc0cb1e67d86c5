//! Extensions and their patterns, as in extensions.conf: does `_0ZXX.` match 09711761156?
//!
//! Separate because it is Asterisk's own small language, and knows nothing of trunks.
//!
//! Source: `main/pbx.c` (`_extension_match_core`) and the documentation of patterns. Not here: `exten/callerid`, which no
//! rule of ours can know.

/// Whether `exten` is what `pattern` stands for.
///
/// Behind a leading `_`: `X` is a digit, `Z` one of 1-9, `N` one of 2-9 (in either case), `[13-5]` one of those, `.` one
/// character or more, `!` none or more; both end the pattern. Without the underscore the pattern is the extension itself.
/// Dashes count in neither.
#[must_use]
pub fn matches(pattern: &str, exten: &str) -> bool {
    let exten = exten.bytes().filter(|&byte| byte != b'-');
    match pattern.strip_prefix('_') {
        Some(pattern) => matches_pattern(pattern.as_bytes(), exten),
        None => pattern.bytes().filter(|&byte| byte != b'-').eq(exten),
    }
}

fn matches_pattern(mut pattern: &[u8], mut exten: impl Iterator<Item = u8>) -> bool {
    while let Some((&symbol, rest)) = pattern.split_first() {
        pattern = rest;
        match symbol {
            b'-' | b' ' => continue,
            b'!' => return true,
            b'.' => return exten.next().is_some(),
            _ => {}
        }
        let Some(byte) = exten.next() else { return false };
        let fits = match symbol {
            b'X' | b'x' => byte.is_ascii_digit(),
            b'Z' | b'z' => matches!(byte, b'1'..=b'9'),
            b'N' | b'n' => matches!(byte, b'2'..=b'9'),
            b'[' => {
                // A set without its end matches nothing, as Asterisk has it.
                let Some(end) = rest.iter().position(|&byte| byte == b']') else { return false };
                pattern = &rest[end + 1..];
                in_set(&rest[..end], byte)
            }
            literal => literal == byte,
        };
        if !fits {
            return false;
        }
    }
    exten.next().is_none()
}

fn in_set(mut set: &[u8], byte: u8) -> bool {
    loop {
        match set {
            [low, b'-', high, rest @ ..] => {
                if (*low..=*high).contains(&byte) {
                    return true;
                }
                set = rest;
            }
            [one, rest @ ..] => {
                if *one == byte {
                    return true;
                }
                set = rest;
            }
            [] => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_what_they_match_in_extensions_conf() {
        for (pattern, exten, fits) in [
            ("100", "100", true),
            ("100", "1000", false),
            ("1-00", "100", true),
            ("_1XX", "199", true),
            ("_1xx", "199", true),
            ("_1XX", "1999", false),
            ("_1XX", "19", false),
            ("_1XX", "19a", false),
            ("_Z", "0", false),
            ("_N", "1", false),
            ("_NXX-XXXX", "5551234", true),
            ("_NXX-XXXX", "555-1234", true),
            ("_0ZXX.", "09711", true),
            ("_0ZXX.", "0971", false),
            ("_9!", "9", true),
            ("_9!", "9123", true),
            ("_.", "", false),
            ("_X.", "s", false),
            ("_+91X.", "+919711", true),
            ("_[13-5a]X", "47", true),
            ("_[13-5a]X", "27", false),
            ("_[13-5a]X", "a7", true),
            ("_[1", "1", false),
            ("_[-]1", "1", false),
            ("", "", true),
        ] {
            assert_eq!(matches(pattern, exten), fits, "{pattern} {exten}");
        }
    }
}
