//! Dial strings: which legs one has, and by which names each leg may reach a trunk.
//!
//! Separate because the gateway and the decisions read the same strings, and must read the same in them. What a channel
//! driver makes of a string depends on its version, its settings (`disable_multi_domain`) and on which endpoints there
//! are, so a leg gives every name that some reading of it dials, the likeliest first. A name too many costs nothing, as it
//! means something only where a trunk is called so; one too few would be a way past the gate.
//!
//! Sources: `channels/chan_pjsip.c` (`request`), `channels/chan_sip.c` (`sip_request_call`), `channels/chan_iax2.c`
//! (`parse_dial_string`), `main/core_local.c` (`local_alloc`), `main/app.c` (`__ast_app_separate_args`),
//! `apps/app_dial.c` (`dial_exec_full`). Which endpoint a real Asterisk reaches is asked by the lab's `gateway_parser`.

use std::borrow::Cow;

/// The most readings a leg is searched for. A leg that people write has under ten; one with more is made to be searched
/// for long, and [`Leg::readings`] says that there were too many.
pub const MOST_READINGS: usize = 64;

/// What Asterisk keeps of an extension, and of a context, that `Local/` is given (`AST_MAX_EXTENSION`, less the NUL).
const PLACE_LIMIT: usize = 79;

/// The channel drivers that lead to trunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Technology {
    /// `PJSIP/endpoint`, `PJSIP/user@endpoint`, `PJSIP/endpoint/sip:user@host`.
    Pjsip,
    /// `SIP/peer/user`, `SIP/user@peer`: chan_sip, up to Asterisk 20.
    Sip,
    /// `IAX2/user@peer/exten@context`.
    Iax2,
    /// `Local/exten@context/options`: back into the dialplan.
    Local,
    /// Anything else: its destinations are no endpoints of SIP.
    Other,
}

impl Technology {
    fn read(name: &str) -> Self {
        const KNOWN: [(&str, Technology); 5] = [
            ("PJSIP", Technology::Pjsip),
            ("SIP", Technology::Sip),
            ("IAX2", Technology::Iax2),
            ("IAX", Technology::Iax2),
            ("Local", Technology::Local),
        ];
        let found = KNOWN.iter().find(|(known, _)| name.eq_ignore_ascii_case(known));
        found.map_or(Self::Other, |&(_, technology)| technology)
    }
}

/// One channel that a dial string asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leg<'a> {
    technology: Technology,
    /// All after the technology's slash.
    destination: Cow<'a, str>,
    /// Whether something is quoted in it. Where quotes end is a matter of who reads them.
    quoted: bool,
}

/// What a leg may be taken for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readings<'a> {
    /// The names, the likeliest first; none for `Local/…` and for technologies that lead to no trunk.
    pub names: Vec<Cow<'a, str>>,
    /// There are more than [`MOST_READINGS`]: it cannot be said that no trunk is among them.
    pub too_many: bool,
}

/// Where `Local/…` goes on in the dialplan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// The extension.
    pub exten: &'a str,
    /// The context.
    pub context: &'a str,
}

impl<'a> Leg<'a> {
    /// Reads one channel's name, like an `Originate`'s `Channel`. `None` without a slash: that is no channel.
    #[must_use]
    pub fn read(text: &'a str) -> Option<Self> {
        let text = trim(text);
        let quoted = is_quoted(text);
        let text = if quoted { Cow::Owned(without_quotes(text)) } else { Cow::Borrowed(text) };
        let slash = text.find('/')?;
        let technology = Technology::read(trim(&text[..slash]));
        let destination = match text {
            Cow::Borrowed(text) => Cow::Borrowed(&text[slash + 1..]),
            Cow::Owned(text) => Cow::Owned(text[slash + 1..].to_owned()),
        };
        Some(Self { technology, destination, quoted })
    }

    /// The channel driver.
    #[must_use]
    pub const fn technology(&self) -> Technology {
        self.technology
    }

    /// Whether it goes out by a driver that leads to trunks, `Local/` not included.
    #[must_use]
    pub const fn is_direct(&self) -> bool {
        match self.technology {
            Technology::Pjsip | Technology::Sip | Technology::Iax2 => true,
            Technology::Local | Technology::Other => false,
        }
    }

    /// The names that are dialed in one reading or another.
    ///
    /// A name begins where the destination does, behind an `@` or behind a slash (`PJSIP/endpoint/aor`); it ends at a slash,
    /// a port's colon, chan_sip's `!`, or with the destination. What is before an `@` is who is called and never where: it
    /// is a name only together with what follows (an endpoint may be called `user@domain`).
    #[must_use]
    pub fn readings(&self) -> Readings<'_> {
        let mut readings = Readings { names: Vec::new(), too_many: false };
        if !self.is_direct() {
            return readings;
        }
        let destination = self.destination.as_ref();
        let first = destination.split('/').find(|part| !trim(part).is_empty()).unwrap_or_default();
        readings.add(first);
        if let Some((_, endpoint)) = first.split_once('@') {
            readings.add(endpoint);
        }
        let starts = destination.char_indices().filter(|&(_, c)| begins(c)).map(|(at, _)| at + 1);
        for start in std::iter::once(0).chain(starts) {
            let rest = &destination[start..];
            let ends = rest.char_indices().filter(|&(_, c)| ends(c)).map(|(at, _)| at);
            for end in ends.chain(std::iter::once(rest.len())) {
                readings.add(&rest[..end]);
                if readings.too_many {
                    return readings;
                }
            }
        }
        readings
    }

    /// Where a `Local/…` goes on; `None` for other technologies, and where it cannot be said with certainty: something is
    /// quoted, or longer than Asterisk keeps. Without a context it is `default`.
    #[must_use]
    pub fn place(&self) -> Option<Place<'_>> {
        match self.technology {
            Technology::Local => {}
            Technology::Pjsip | Technology::Sip | Technology::Iax2 | Technology::Other => return None,
        }
        let place = self.destination.split_once('/').map_or(self.destination.as_ref(), |(place, _options)| place);
        let (exten, context) = place.split_once('@').unwrap_or((place, ""));
        let context = if context.is_empty() { "default" } else { context };
        let certain = !self.quoted && exten.len() <= PLACE_LIMIT && context.len() <= PLACE_LIMIT;
        certain.then_some(Place { exten, context })
    }
}

impl std::fmt::Display for Leg<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let technology = match self.technology {
            Technology::Pjsip => "PJSIP",
            Technology::Sip => "SIP",
            Technology::Iax2 => "IAX2",
            Technology::Local => "Local",
            Technology::Other => "another technology",
        };
        write!(f, "{technology}/{}", self.destination)
    }
}

impl<'a> Readings<'a> {
    fn add(&mut self, name: &'a str) {
        let name = trim(name);
        if name.is_empty() || self.names.iter().any(|known| known == name) {
            return;
        }
        if self.names.len() == MOST_READINGS {
            self.too_many = true;
        } else {
            self.names.push(Cow::Borrowed(name));
        }
    }
}

/// Where a name may begin, behind it. The ampersand is there for what was quoted.
const fn begins(c: char) -> bool {
    matches!(c, '@' | '/' | '&')
}

/// Where a name may end, before it.
const fn ends(c: char) -> bool {
    matches!(c, '/' | ':' | '!' | ';' | ',' | '&' | '|')
}

/// The legs of a `Dial`'s first argument: `PJSIP/1@a&PJSIP/2@b`. Where something is quoted, the whole counts as a leg too.
pub fn legs(destinations: &str) -> impl Iterator<Item = Leg<'_>> {
    let whole = (is_quoted(destinations) && destinations.contains('&')).then_some(destinations);
    destinations.split('&').chain(whole).filter_map(Leg::read)
}

/// The arguments of an application, at most `most` of them: split at commas that are neither quoted nor in brackets; the
/// last has all the rest. Quotes and backslashes are kept: [`legs`] reads them.
///
/// Source: `main/app.c` (`__ast_app_separate_args`).
pub fn arguments(data: &str, most: usize) -> impl Iterator<Item = &str> {
    let (mut rest, mut left) = (Some(data), most);
    std::iter::from_fn(move || {
        let text = rest.filter(|_| left > 0)?;
        left -= 1;
        let end = if left == 0 { None } else { argument_end(text) };
        rest = end.map(|end| &text[end + 1..]);
        Some(end.map_or(text, |end| &text[..end]))
    })
}

fn argument_end(text: &str) -> Option<usize> {
    let (mut parens, mut brackets, mut quoted) = (0_usize, 0_usize, false);
    let mut bytes = text.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'(' => parens += 1,
            b')' => parens = parens.saturating_sub(1),
            b'[' => brackets += 1,
            b']' => brackets = brackets.saturating_sub(1),
            b'"' => quoted = !quoted,
            b'\\' => {
                bytes.next();
            }
            b',' if parens == 0 && brackets == 0 && !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

/// Asterisk's blanks are all bytes up to 0x20.
fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c <= ' ')
}

fn is_quoted(text: &str) -> bool {
    memchr::memchr2(b'"', b'\\', text.as_bytes()).is_some()
}

/// Every reader takes quotes and backslashes out, however often one reads after another.
fn without_quotes(text: &str) -> String {
    text.chars().filter(|c| !matches!(c, '"' | '\\')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        let leg = Leg::read(text).unwrap_or_else(|| panic!("{text} is a channel"));
        leg.readings().names.into_iter().map(Cow::into_owned).collect()
    }

    #[test]
    fn every_form_gives_the_name_it_dials_first_among_those_that_could_be_a_trunk() {
        // The second of each is the first name that may be an endpoint's, the user at an endpoint as a whole left out.
        for (text, dialed) in [
            ("PJSIP/airtel", "airtel"),
            ("PJSIP/9711761156@airtel", "airtel"),
            ("PJSIP//9711761156@airtel", "airtel"),
            ("pjsip/9711761156@airtel ", "airtel"),
            ("PJSIP/airtel/sip:9711761156@198.51.100.7:5060", "airtel"),
            ("PJSIP/9711761156@airtel/sip:x@198.51.100.7", "airtel"),
            ("PJSIP/9711761156@airtel/anything@x", "airtel"),
            ("PJSIP/a@b@airtel", "airtel"),
            ("PJSIP/a@airtel@b", "airtel@b"),
            ("PJSIP/jio/airtel", "airtel"),
            ("PJSIP/9@air\"tel\"", "airtel"),
            ("PJSIP/9@air\\tel", "airtel"),
            ("PJSIP/(a/b)@airtel", "airtel"),
            ("SIP/airtel/9711761156", "airtel"),
            ("SIP/airtel/9711761156/198.51.100.7", "airtel"),
            ("SIP/9711761156@airtel", "airtel"),
            ("SIP/9711761156:pw:md5:auth:tcp@airtel:5061", "airtel"),
            ("SIP/9711761156@airtel//host", "airtel"),
            ("SIP/airtel/9711761156!4930", "airtel"),
            ("SIP/9711761156@airtel!4930!from", "airtel"),
            ("IAX2/airtel/9711761156", "airtel"),
            ("IAX2/user:secret@airtel:4569/9711761156@context/a", "airtel"),
            ("IAX2/user:[key]:x@airtel/9711761156", "airtel"),
        ] {
            assert!(names(text).iter().any(|name| name == dialed), "{text}: {:?}", names(text));
        }
        assert_eq!(names("PJSIP/9711761156@airtel"), ["9711761156@airtel", "airtel"]);
        assert_eq!(names("PJSIP//9711761156@airtel")[..2], ["9711761156@airtel", "airtel"]);
        assert_eq!(names("PJSIP/airtel/sip:9@h")[0], "airtel");
    }

    #[test]
    fn who_is_called_is_no_name() {
        assert!(!names("PJSIP/919876543210@airtel").contains(&"919876543210".to_owned()));
        assert!(!names("SIP/919876543210:pw@airtel").contains(&"pw".to_owned()));
    }

    #[test]
    fn technologies_that_lead_to_no_trunk_have_no_names() {
        assert!(names("DAHDI/g1/airtel").is_empty() && names("Local/1@airtel").is_empty());
        assert_eq!(Leg::read("airtel"), None);
    }

    #[test]
    fn a_string_made_to_be_searched_for_long_is_told() {
        let text = format!("PJSIP/{}", "a@b/".repeat(60));
        let readings = Leg::read(&text).map(|leg| leg.readings().too_many);
        assert_eq!(readings, Some(true));
    }

    #[test]
    fn a_local_channel_goes_on_where_it_says() {
        let place = |text: &str| {
            let leg = Leg::read(text).unwrap();
            leg.place().map(|place| format!("{}|{}", place.exten, place.context))
        };
        assert_eq!(place("Local/9711@out").as_deref(), Some("9711|out"));
        assert_eq!(place("LOCAL/9711@out/nj").as_deref(), Some("9711|out"));
        assert_eq!(place("Local/9711").as_deref(), Some("9711|default"));
        assert_eq!(place("Local/9711/n@x").as_deref(), Some("9711|default"));
        assert_eq!(place("Local/a@b@c").as_deref(), Some("a|b@c"));
        assert_eq!(place("Local/97\\11@out"), None);
        assert_eq!(place(&format!("Local/{}@out", "9".repeat(80))), None);
        assert_eq!(place("PJSIP/9711@out"), None);
    }

    #[test]
    fn legs_are_split_at_ampersands_and_arguments_at_commas_outside_of_brackets() {
        let all: Vec<_> = legs("PJSIP/1@a&SIP/b/2& Local/3@c &no").map(|leg| leg.technology()).collect();
        assert_eq!(all, [Technology::Pjsip, Technology::Sip, Technology::Local]);
        let split: Vec<_> = arguments("PJSIP/1@a,30,M(x,y)\\,z,\"q,r\",end", 9).collect();
        assert_eq!(split, ["PJSIP/1@a", "30", "M(x,y)\\,z", "\"q,r\"", "end"]);
        assert_eq!(arguments("a,b,c", 2).collect::<Vec<_>>(), ["a", "b,c"]);
        assert_eq!(arguments("", 2).collect::<Vec<_>>(), [""]);
    }

    #[test]
    fn what_is_quoted_hides_no_trunk() {
        let hidden = |text: &str| legs(text).any(|leg| leg.readings().names.iter().any(|name| name == "airtel"));
        for text in ["PJSIP/\"1&2\"@airtel", "PJSIP/1\\&2@airtel", "\"PJSIP\"/1@airtel", "PJSIP/x&\"PJSIP/1@air\\tel\""]
        {
            assert!(hidden(text), "{text}");
        }
    }
}
