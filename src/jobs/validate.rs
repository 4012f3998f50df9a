//! Looks through an input before anything of it is run. The file is never in memory as a whole.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, BufRead};

use super::endpoint::Endpoint;
use super::line::{RequestLine, quoted, wrong};
use super::lines::{LineRead, LineReader};
use super::record::{Input, LineError};

/// Mistakes that are told; whoever made so many made them in a program.
const ERRORS_TOLD: usize = 100;
/// Lines between two looks at whether the result is still wanted.
const LOOK_INTERVAL: u64 = 256;

/// What a batch may hold.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) endpoint: Endpoint,
    pub(super) max_lines: u32,
    pub(super) max_line_bytes: u64,
}

/// What came of looking through an input.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Fine(Input),
    Wrong(Vec<LineError>),
    /// The result was not wanted any more.
    Halted,
}

/// Looks through an input. `knows` says why a model cannot answer such requests, `is_wanted`
/// whether to go on.
pub(super) fn validate(
    source: impl BufRead,
    rules: &Rules,
    knows: impl Fn(&str) -> Result<(), LineError>,
    is_wanted: impl Fn() -> bool,
) -> io::Result<Verdict> {
    let mut reader = LineReader::new(source, rules.max_line_bytes);
    let mut seen = Seen::default();
    let mut input = Input::default();
    let mut errors = Vec::new();
    let mut line = Vec::new();
    loop {
        let read = reader.next(&mut line)?;
        let (number, outcome) = match read {
            LineRead::End => break,
            LineRead::TooLong(number) => (number, Err(too_long(rules.max_line_bytes))),
            LineRead::Line(number) => (number, check(&line, rules, &mut input, &mut seen, &knows)),
        };
        input.requests += 1;
        input.longest = input.longest.max(line.len() as u64);
        if let Err(error) = outcome {
            errors.push(LineError { line: Some(number), ..error });
        }
        if input.requests > rules.max_lines {
            errors.push(too_many(rules.max_lines));
            break;
        }
        if errors.len() >= ERRORS_TOLD {
            break;
        }
        if number % LOOK_INTERVAL == 0 && !is_wanted() {
            return Ok(Verdict::Halted);
        }
    }
    if input.requests == 0 {
        let message = "the file has no requests; each line of it must be one";
        errors.push(LineError {
            code: "empty_file".into(),
            message: message.into(),
            param: None,
            line: None,
        });
    }
    Ok(if errors.is_empty() { Verdict::Fine(input) } else { Verdict::Wrong(errors) })
}

fn check(
    line: &[u8],
    rules: &Rules,
    input: &mut Input,
    seen: &mut Seen,
    knows: impl Fn(&str) -> Result<(), LineError>,
) -> Result<(), LineError> {
    let request = RequestLine::parse(line, rules.endpoint)?;
    if !seen.insert(&request.custom_id) {
        let custom_id = quoted(&request.custom_id);
        let message = format!("custom_id {custom_id} was there before; each must be another");
        return Err(wrong("duplicate_custom_id", message, "custom_id"));
    }
    match &input.model {
        None => {
            input.model = Some(request.model.clone().into_owned());
            knows(&request.model)
        }
        Some(model) if *model == request.model => Ok(()),
        Some(model) => {
            let message = format!(
                "model is {}, but that of the first request is {}; all requests of a batch must \
                 name the same",
                quoted(&request.model),
                quoted(model)
            );
            Err(wrong("model_mismatch", message, "body.model"))
        }
    }
}

fn too_long(most: u64) -> LineError {
    let message = format!("the line is longer than {most} bytes (max_request_bytes)");
    LineError { code: "line_too_long".into(), message, param: None, line: None }
}

fn too_many(most: u32) -> LineError {
    let message = format!("the file has more than {most} requests (max_lines); split it");
    LineError { code: "too_many_tasks".into(), message, param: None, line: None }
}

/// The ids that were there. Their keyed hashes are enough: that two of millions meet by chance is
/// less likely than a broken machine.
#[derive(Default)]
struct Seen {
    keys: (RandomState, RandomState),
    hashes: HashSet<(u64, u64)>,
}

impl Seen {
    fn insert(&mut self, custom_id: &str) -> bool {
        self.hashes.insert((self.keys.0.hash_one(custom_id), self.keys.1.hash_one(custom_id)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(custom_id: &str, model: &str) -> String {
        format!(
            "{{\"custom_id\":\"{custom_id}\",\"method\":\"POST\",\"url\":\"/v1/completions\",\
             \"body\":{{\"model\":\"{model}\",\"prompt\":\"x\"}}}}\n"
        )
    }

    fn verdict(text: &str) -> Verdict {
        let rules = Rules { endpoint: Endpoint::Completions, max_lines: 200, max_line_bytes: 1000 };
        let knows = |model: &str| match model {
            "m" | "n" => Ok(()),
            _ => Err(wrong("model_not_found", "none".into(), "body.model")),
        };
        validate(text.as_bytes(), &rules, knows, || true).unwrap()
    }

    fn codes(text: &str) -> Vec<(String, Option<u64>)> {
        match verdict(text) {
            Verdict::Wrong(errors) => errors.into_iter().map(|it| (it.code, it.line)).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_good_input_is_counted() {
        let text = [request("a", "m"), "\n".into(), request("bb", "m")].concat();
        let longest = request("bb", "m").trim_end().len() as u64;
        let input = Input { model: Some("m".into()), requests: 2, longest };
        assert_eq!(verdict(&text), Verdict::Fine(input));
    }

    #[test]
    fn mistakes_are_told_with_their_lines() {
        let long = request("long", &"m".repeat(1000));
        let text = [
            &request("a", "m"),
            "\n",
            "{\n",
            &request("a", "m"),
            &request("b", "n"),
            &long,
            &request("c", "m"),
        ]
        .concat();
        let expected = [
            ("invalid_json_line", 3),
            ("duplicate_custom_id", 4),
            ("model_mismatch", 5),
            ("line_too_long", 6),
        ];
        let expected = expected.map(|(code, line)| (code.to_owned(), Some(line)));
        assert_eq!(codes(&text), expected);
        assert_eq!(codes(&request("a", "q")), [("model_not_found".to_owned(), Some(1))]);
        assert_eq!(codes("\n \n"), [("empty_file".to_owned(), None)]);
    }

    #[test]
    fn neither_lines_nor_mistakes_are_without_bound() {
        let many: String = (0..250).map(|index| request(&index.to_string(), "m")).collect();
        assert_eq!(codes(&many), [("too_many_tasks".to_owned(), None)]);
        assert_eq!(codes(&"{\n".repeat(190)).len(), ERRORS_TOLD);
    }

    #[test]
    fn a_validation_that_nobody_wants_any_more_ends() {
        let many: String = (0..300).map(|index| request(&index.to_string(), "m")).collect();
        let rules = Rules { endpoint: Endpoint::Completions, max_lines: 999, max_line_bytes: 1000 };
        let halted = validate(many.as_bytes(), &rules, |_| Ok(()), || false).unwrap();
        assert_eq!(halted, Verdict::Halted);
    }
}
