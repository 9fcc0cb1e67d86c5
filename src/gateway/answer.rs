//! What the gateway says itself, in Asterisk's words where Asterisk has some.
//!
//! Source: `main/manager.c` (`astman_send_response_full`): `Response`, then the request's `ActionID` if it has one, then
//! the rest.

use bytes::BufMut;

use crate::wire::ami::request::Request;

/// Writes a response with these headers.
pub(super) fn response<V: AsRef<[u8]> + ?Sized>(
    out: &mut impl BufMut,
    word: &str,
    id: Option<&[u8]>,
    headers: &[(&str, &V)],
) {
    put(out, "Response", word.as_bytes());
    if let Some(id) = id.filter(|id| !id.is_empty()) {
        put(out, "ActionID", id);
    }
    for (name, value) in headers {
        put(out, name, value.as_ref());
    }
    out.put_slice(b"\r\n");
}

/// Writes an error.
pub(super) fn error(out: &mut impl BufMut, id: Option<&[u8]>, message: &str) {
    response(out, "Error", id, &[("Message", message)]);
}

/// The request's `ActionID`, as the answer must repeat it.
pub(super) fn id_of(request: &Request) -> Option<&[u8]> {
    request.values("ActionID").next().filter(|id| !id.is_empty())
}

/// No byte of a value may end its line; a NUL would end it for a reader in C.
fn put(out: &mut impl BufMut, name: &str, value: &[u8]) {
    out.put_slice(name.as_bytes());
    out.put_slice(b": ");
    for part in value.split(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
        out.put_slice(part);
    }
    out.put_slice(b"\r\n");
}

/// The value of a header in a message as it came.
pub(super) fn header<'a>(message: &'a [u8], name: &str) -> Option<&'a [u8]> {
    message.split(|&byte| byte == b'\n').find_map(|line| {
        let (own, value) = line.split_at_checked(name.len())?;
        let value = value.strip_prefix(b":").filter(|_| own.eq_ignore_ascii_case(name.as_bytes()))?;
        Some(value.trim_ascii())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_repeats_the_whole_id_and_nothing_can_be_put_into_it() {
        let mut out = Vec::new();
        error(&mut out, Some(b"1234_5#ACME"), "no\r\nEvent: x");
        assert_eq!(out, b"Response: Error\r\nActionID: 1234_5#ACME\r\nMessage: noEvent: x\r\n\r\n");
    }

    #[test]
    fn a_header_is_found_whatever_its_case() {
        let message = b"\r\nResponse: Success\r\nActionid:  7 \r\n\r\n";
        assert_eq!(header(message, "ActionID"), Some(&b"7"[..]));
        assert_eq!(header(message, "Message"), None);
    }
}
