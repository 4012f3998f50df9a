//! A text cut into the pieces in which it is streamed.

/// The longest piece, in characters; a longer word, or text without spaces, is cut.
const MAX_PIECE_CHARACTERS: usize = 64;

/// The words of a text, each with the white space before it, and the last with that after it;
/// together they are the text.
#[derive(Clone, Debug)]
pub(super) struct Pieces<'a> {
    rest: &'a str,
}

impl<'a> Pieces<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { rest: text }
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        if self.rest.is_empty() {
            return None;
        }
        let (piece, rest) = self.rest.split_at_checked(piece_end(self.rest))?;
        self.rest = rest;
        Some(piece)
    }
}

/// Where the first piece of a text ends, in bytes.
fn piece_end(text: &str) -> usize {
    let limit = text.char_indices().nth(MAX_PIECE_CHARACTERS).map_or(text.len(), |(end, _)| end);
    let within = text.get(..limit).unwrap_or(text);
    let Some(word) = within.find(|c: char| !c.is_whitespace()) else {
        return limit;
    };
    let after_word = within.get(word..).and_then(|tail| tail.find(char::is_whitespace));
    let Some(after_word) = after_word.map(|offset| word + offset) else {
        return limit;
    };
    let only_space_left = limit == text.len() && text.get(after_word..).is_some_and(is_space);
    if only_space_left { limit } else { after_word }
}

fn is_space(text: &str) -> bool {
    text.chars().all(char::is_whitespace)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pieces(text: &str) -> Vec<&str> {
        Pieces::new(text).collect()
    }

    #[test]
    fn cuts_before_the_space_of_the_next_word() {
        assert_eq!(pieces("one two\n three"), ["one", " two", "\n three"]);
        assert_eq!(pieces(" one two  "), [" one", " two  "]);
        assert_eq!(pieces("  "), ["  "]);
        assert_eq!(pieces(""), [""; 0]);
    }

    #[test]
    fn cuts_text_without_spaces() {
        let text = "字".repeat(150);
        let lengths: Vec<usize> = pieces(&text).iter().map(|p| p.chars().count()).collect();
        assert_eq!(lengths, [64, 64, 22]);
    }

    proptest! {
        #[test]
        fn pieces_are_bounded_and_make_up_the_text(text in "(\\PC|\\s){0,300}") {
            let pieces = pieces(&text);
            prop_assert_eq!(pieces.concat(), text.as_str());
            prop_assert!(pieces.iter().all(|p| (1..=64).contains(&p.chars().count())));
        }
    }
}
