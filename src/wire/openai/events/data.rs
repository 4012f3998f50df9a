//! What an event says, and where.

use std::ops::Range;

/// The data of an event, and where in the event each line of it stood.
pub(super) struct Data {
    pub(super) text: Vec<u8>,
    /// Where a line starts in the text, and in the event.
    lines: Vec<(usize, usize)>,
}

impl Data {
    pub(super) fn of(event: &[u8]) -> Self {
        let mut data = Self { text: Vec::with_capacity(event.len()), lines: Vec::new() };
        let mut start = 0;
        for line in event.split(|byte| matches!(byte, b'\n' | b'\r')) {
            if let Some(value) = line.strip_prefix(b"data:") {
                let value = value.strip_prefix(b" ").unwrap_or(value);
                if !data.lines.is_empty() {
                    data.text.push(b'\n');
                }
                let value_start = start + line.len() - value.len();
                data.lines.push((data.text.len(), value_start));
                data.text.extend_from_slice(value);
            }
            start += line.len() + 1;
        }
        data
    }

    /// Where in the event the field `usage` stands whose value is `value`, a part of the text, with the
    /// comma that goes with it; `None` when it is not all in one line, or alone.
    pub(super) fn field(&self, value: &str) -> Option<Range<usize>> {
        let end = (value.as_ptr() as usize).checked_sub(self.text.as_ptr() as usize)?;
        let before = self.text.get(..end)?.trim_ascii_end().strip_suffix(b":")?;
        let before = before.trim_ascii_end().strip_suffix(super::USAGE)?;
        let key = before.len();
        let end = end + value.len();
        let ahead = before.trim_ascii_end().strip_suffix(b",").map(|before| before.len()..end);
        let after = self.text.get(end..)?.trim_ascii_start().strip_prefix(b",");
        let behind = after.map(|after| key..self.text.len() - after.trim_ascii_start().len());
        [ahead, behind].into_iter().flatten().find_map(|range| self.in_event(&range))
    }

    /// Where in the event a part of the text stands that is in one line.
    fn in_event(&self, range: &Range<usize>) -> Option<Range<usize>> {
        if self.text.get(range.clone())?.contains(&b'\n') {
            return None;
        }
        let (in_text, in_event) = self.lines.iter().rfind(|(start, _)| *start <= range.start)?;
        let shift = |at: usize| at - in_text + in_event;
        Some(shift(range.start)..shift(range.end))
    }
}
