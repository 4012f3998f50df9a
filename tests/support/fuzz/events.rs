//! A reader of server-sent events, as the HTML standard describes it, for as much as data goes.

/// The data of each event of a stream that has ended; what no blank line follows is no event.
pub(super) fn events(stream: &[u8]) -> Vec<Vec<u8>> {
    let stream = stream.strip_prefix(b"\xef\xbb\xbf").unwrap_or(stream);
    let mut events = Vec::new();
    let mut data: Option<Vec<u8>> = None;
    let mut rest = stream;
    while let Some(end) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
        let (line, ending) = rest.split_at(end);
        rest = &ending[if ending.starts_with(b"\r\n") { 2 } else { 1 }..];
        if line.is_empty() {
            events.extend(data.take());
        } else if let Some(value) = field(line, b"data") {
            let data = data.get_or_insert_default();
            if !data.is_empty() {
                data.push(b'\n');
            }
            data.extend_from_slice(value);
        }
    }
    events
}

fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let rest = line.strip_prefix(name)?;
    if rest.is_empty() {
        return Some(rest);
    }
    let value = rest.strip_prefix(b":")?;
    Some(value.strip_prefix(b" ").unwrap_or(value))
}
