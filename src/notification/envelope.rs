//! The answer of `receiveNotification`, read by structure alone: members are found by nesting and
//! quotes, so that nothing inside a body can keep its instance from going on.

use std::ops::Range;

use memchr::memchr2;

use super::ReceiptId;

/// What surrounds an answer without being part of it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The members of an answer that matter, as places in its bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Envelope {
    /// The last readable receipt, and where its value stands.
    pub receipt: Option<(ReceiptId, Range<usize>)>,
    /// The last body, whatever stands there.
    pub body: Option<Range<usize>>,
    /// Nothing is queued, according to the answer.
    pub is_empty: bool,
    /// Its outermost bracket closes, and nothing follows.
    pub is_whole: bool,
}

impl Envelope {
    pub(super) fn read(answer: &[u8]) -> Self {
        let outer = trim_around(answer, 0..answer.len());
        let text = &answer[outer.clone()];
        if text.is_empty() || text == b"null" {
            return Self { is_empty: true, is_whole: true, ..Self::default() };
        }
        if text[0] != b'{' {
            return Self::default();
        }
        let mut found = Self::default();
        let (mut start, mut colon, mut depth) = (outer.start + 1, None, 1_usize);
        let mut at = start;
        let mut members = 0;
        while at < outer.end {
            match answer[at] {
                b'"' => match end_of_string(answer, at + 1..outer.end) {
                    Some(end) => at = end,
                    None => return found,
                },
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                b':' if depth == 1 && colon.is_none() => colon = Some(at),
                _ => {}
            }
            let ends_member = depth == 0 || (depth == 1 && answer[at] == b',');
            if ends_member {
                members += usize::from(!trim(answer, start..at).is_empty());
                if let Some(colon) = colon.take() {
                    found.member(answer, trim(answer, start..colon), trim(answer, colon + 1..at));
                }
                start = at + 1;
            }
            at += 1;
            if depth == 0 {
                found.is_whole = at == outer.end;
                found.is_empty = found.is_whole && members == 0;
                break;
            }
        }
        found
    }

    fn member(&mut self, answer: &[u8], name: Range<usize>, value: Range<usize>) {
        // A name may be written with escapes.
        let Ok(name) = serde_json::from_slice::<String>(&answer[name]) else { return };
        match name.as_str() {
            "receiptId" => self.receipt = receipt(&answer[value.clone()]).map(|receipt| (receipt, value)),
            "body" => self.body = Some(value).filter(|value| !value.is_empty()),
            _ => {}
        }
    }
}

/// A number without a fraction, or a text of digits.
fn receipt(value: &[u8]) -> Option<ReceiptId> {
    let text = std::str::from_utf8(value).ok()?;
    let digits = match text.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"')?,
        None => text.split_once('.').map_or(Some(text), |(whole, fraction)| {
            (!fraction.is_empty() && fraction.bytes().all(|byte| byte == b'0')).then_some(whole)
        })?,
    };
    let all_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    all_digits.then(|| digits.parse().ok().map(ReceiptId))?
}

/// Where the quote stands that ends a string.
fn end_of_string(answer: &[u8], within: Range<usize>) -> Option<usize> {
    let mut at = within.start;
    while at < within.end {
        let found = at + memchr2(b'"', b'\\', &answer[at..within.end])?;
        if answer[found] == b'"' {
            return Some(found);
        }
        at = found + 2;
    }
    None
}

fn trim(answer: &[u8], range: Range<usize>) -> Range<usize> {
    let text = &answer[range.clone()];
    let start = range.start + (text.len() - text.trim_ascii_start().len());
    start..start + text.trim_ascii().len()
}

/// Without a byte order mark, NULs and spaces at both ends.
fn trim_around(answer: &[u8], range: Range<usize>) -> Range<usize> {
    let is_filling = |byte: &u8| *byte == 0 || byte.is_ascii_whitespace();
    let (mut start, mut end) = (range.start, range.end);
    loop {
        let text = &answer[start..end];
        if text.first().is_some_and(is_filling) {
            start += 1;
        } else if text.last().is_some_and(is_filling) {
            end -= 1;
        } else if text.starts_with(BYTE_ORDER_MARK) {
            start += BYTE_ORDER_MARK.len();
        } else if text.ends_with(BYTE_ORDER_MARK) {
            end -= BYTE_ORDER_MARK.len();
        } else {
            return start..end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Receipt, body, and whether it is whole.
    fn read(answer: &[u8]) -> (Option<u64>, Option<&[u8]>, bool) {
        let found = Envelope::read(answer);
        (found.receipt.map(|(ReceiptId(number), _)| number), found.body.map(|body| &answer[body]), found.is_whole)
    }

    #[test]
    fn empty_is_what_the_contract_says_and_nothing_else() {
        for answer in ["", "null", " null\n", "\u{feff}null", "{}", " { } ", "\0", "{}\0\0"] {
            assert!(Envelope::read(answer.as_bytes()).is_empty, "{answer:?}");
        }
        for answer in ["[]", "0", "<html>", "{", "{},", r#"{"receiptId":null}"#, r#"{"body":{}}"#, r#"{"a":1}"#, "nul"]
        {
            assert!(!Envelope::read(answer.as_bytes()).is_empty, "{answer:?}");
        }
    }

    #[test]
    fn a_receipt_is_a_whole_number_or_a_text_of_digits() {
        let of = |receipt: &str| read(format!(r#"{{"receiptId":{receipt},"body":1}}"#).as_bytes()).0;
        for (receipt, wanted) in [
            ("7", 7),
            (" 7 ", 7),
            ("7.0", 7),
            ("7.00", 7),
            ("\"7\"", 7),
            ("007", 7),
            ("18446744073709551615", u64::MAX),
            (r#"1,"receiptId":2"#, 2),
        ] {
            assert_eq!(of(receipt), Some(wanted), "{receipt}");
        }
        for odd in ["", "-1", "7.5", "7.", "7e0", "\"\"", "\"7.0\"", "\"7", "null", "[7]", "18446744073709551616", "+7"]
        {
            assert_eq!(of(odd), None, "{odd}");
        }
    }

    #[test]
    fn a_body_is_found_whatever_it_is() {
        for body in [
            &b"NaN"[..],
            b"{\"text\":\"\xe2\x82\"}",
            b"{\"text\":\"a\nb\"}",
            b"{\"text\":\"}\\\"]{\"}",
            b"{\"receiptId\":9,\"body\":{\"body\":[]}}",
            b"'single'",
            b"{\"a\":[1,{\"b\":\"\\\\\"}]}",
            b"{\"a\":1,}",
            b"\xff\xfe",
            b"null",
            b"\"\"",
        ] {
            let parts: [&[u8]; 3] = [b"\xef\xbb\xbf {\"receiptId\" :7 , \"body\" : ", body, b" , \"more\":{}}\r\n\0"];
            assert_eq!(read(&parts.concat()), (Some(7), Some(body), true), "{}", String::from_utf8_lossy(body));
        }
        assert_eq!(read(br#"{"body":1,"body":[2],"receip\u0074Id":3}"#), (Some(3), Some(&b"[2]"[..]), true));
        let deep = ["{\"receiptId\":7,\"body\":", &"[".repeat(1 << 20), &"]".repeat(1 << 20), "}"].concat();
        assert_eq!(read(deep.as_bytes()).1.map(<[u8]>::len), Some(2 << 20));
    }

    #[test]
    fn what_ends_early_or_goes_on_is_not_whole() {
        let whole = br#"{"receiptId":17,"body":{"text":"a\"b","list":[1,2]}}"#;
        for end in 0..whole.len() {
            let (receipt, body, is_whole) = read(&whole[..end]);
            assert!(!is_whole || end == 0, "{end}");
            assert!(body.is_none(), "{end}");
            // A number that is cut is another number.
            assert_eq!(receipt, (end > 15).then_some(17), "{end}");
        }
        for rest in ["}", "x", "{}", ","] {
            assert!(!read(&[whole, rest.as_bytes()].concat()).2, "{rest}");
        }
        assert_eq!(read(b"{\"body\":,\"receiptId\":7}"), (Some(7), None, true));
    }
}
