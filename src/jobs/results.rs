//! The answers of a batch: two append-only files of whole lines, and which requests they answer.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk;
use super::result_line::{self, Outcome};
use super::scan::scan;

/// Where the answers of a batch are until it ends.
pub(super) fn output_path(folder: &Path) -> PathBuf {
    folder.join("output.jsonl")
}

/// Where its errors are until then.
pub(super) fn error_path(folder: &Path) -> PathBuf {
    folder.join("errors.jsonl")
}

/// Which requests are answered.
#[derive(Clone, Debug)]
pub(super) struct Answered {
    words: Vec<u64>,
    requests: u32,
    count: u32,
}

impl Answered {
    fn none_of(requests: u32) -> Self {
        Self { words: vec![0; requests.div_ceil(64) as usize], requests, count: 0 }
    }

    /// Notes that a request is answered; `false` when it was, or when there is no such request.
    fn insert(&mut self, number: u32) -> bool {
        let bit = 1 << (number % 64);
        match self.words.get_mut(number as usize / 64) {
            Some(word) if number < self.requests && *word & bit == 0 => {
                *word |= bit;
                self.count += 1;
                true
            }
            _ => false,
        }
    }

    pub(super) fn contains(&self, number: u32) -> bool {
        let word = self.words.get(number as usize / 64);
        word.is_some_and(|word| word & (1 << (number % 64)) != 0)
    }

    /// Whether every request is answered.
    pub(super) fn is_complete(&self) -> bool {
        self.count == self.requests
    }
}

/// A file of whole lines.
#[derive(Debug)]
struct Appended {
    file: File,
    lines: u32,
    /// Whether something may not be on the disk yet.
    is_dirty: bool,
}

impl Appended {
    /// Opens a file and cuts off what is not whole. A request that is answered twice is as wrong as
    /// half a line: it is cut off with what follows, and answered again.
    fn open(path: &Path, tag: &str, answered: &mut Answered) -> io::Result<Self> {
        let mut file = disk::open_to_append(path)?;
        let scanned = scan(&mut file, tag)?;
        let lines = scanned.numbers.iter().take_while(|number| answered.insert(**number)).count();
        let length =
            if lines == scanned.numbers.len() { scanned.length } else { length_of(path, lines)? };
        if file.metadata()?.len() != length {
            file.set_len(length)?;
            file.sync_all()?;
        }
        let lines = u32::try_from(lines).unwrap_or(u32::MAX);
        Ok(Self { file, lines, is_dirty: true })
    }

    fn append(&mut self, lines: &[u8], count: u32) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        self.is_dirty = true;
        self.file.write_all(lines)?;
        self.lines += count;
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.is_dirty {
            self.file.sync_data()?;
            self.is_dirty = false;
        }
        Ok(())
    }
}

/// Bytes of the first `lines` lines of a file.
fn length_of(path: &Path, lines: usize) -> io::Result<u64> {
    use io::BufRead as _;
    let mut source = io::BufReader::new(File::open(path)?);
    let mut length = 0;
    for _ in 0..lines {
        length += source.skip_until(b'\n')? as u64;
    }
    Ok(length)
}

/// Lines that are written together.
#[derive(Debug, Default)]
pub(super) struct Group {
    output: (Vec<u8>, u32),
    errors: (Vec<u8>, u32),
    numbers: Vec<u32>,
}

impl Group {
    /// Adds the line that tells what became of a request.
    pub(super) fn add(&mut self, tag: &str, number: u32, custom_id: &str, outcome: &Outcome) {
        let side = if outcome.is_success() { &mut self.output } else { &mut self.errors };
        result_line::write(&mut side.0, tag, number, custom_id, outcome);
        side.1 += 1;
        self.numbers.push(number);
    }

    /// Bytes of its lines.
    pub(super) fn bytes(&self) -> usize {
        self.output.0.len() + self.errors.0.len()
    }
}

/// The answers of a batch that is not done. Everything here waits for the disk.
///
/// After an error of the disk it must be opened anew: a line may have been written by half.
#[derive(Debug)]
pub(super) struct Results {
    output: Appended,
    errors: Appended,
    answered: Arc<Answered>,
}

impl Results {
    /// Opens the answers of a batch with `requests` requests, and cuts off what a crash left of a
    /// line.
    pub(super) fn open(folder: &Path, tag: &str, requests: u32) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut answered = Answered::none_of(requests);
        let output = Appended::open(&output_path(folder), tag, &mut answered)?;
        let errors = Appended::open(&error_path(folder), tag, &mut answered)?;
        disk::sync_folder_of(&output_path(folder))?;
        Ok(Self { output, errors, answered: Arc::new(answered) })
    }

    /// Appends a group of lines. A request that is answered already must not be among them.
    pub(super) fn append(&mut self, group: &Group) -> io::Result<()> {
        self.output.append(&group.output.0, group.output.1)?;
        self.errors.append(&group.errors.0, group.errors.1)?;
        let answered = Arc::make_mut(&mut self.answered);
        for number in &group.numbers {
            answered.insert(*number);
        }
        Ok(())
    }

    /// Waits until what was appended is on the disk.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.output.sync()?;
        self.errors.sync()
    }

    /// Which requests are answered now.
    pub(super) fn answered(&self) -> Arc<Answered> {
        Arc::clone(&self.answered)
    }

    /// How many requests were answered with success, and how many ended in an error.
    pub(super) fn counts(&self) -> (u32, u32) {
        (self.output.lines, self.errors.lines)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::StatusCode;
    use proptest::prelude::*;

    use super::super::requests::tests::Folder;
    use super::*;

    const TAG: &str = "0123456789abcdef01234567";
    const REQUESTS: u32 = 9;

    /// Success for even numbers, an error for odd ones.
    fn outcome(number: u32, body: &str) -> Outcome {
        let body = Bytes::from(format!("{{\"text\":{}}}", serde_json::Value::from(body)));
        match number % 2 {
            0 => Outcome::Answered(StatusCode::OK, body),
            _ => Outcome::Failed(StatusCode::BAD_REQUEST, body),
        }
    }

    fn answer(results: &mut Results, numbers: impl IntoIterator<Item = u32>, body: &str) {
        for number in numbers {
            let mut group = Group::default();
            group.add(TAG, number, &format!("id-{number}"), &outcome(number, body));
            results.append(&group).unwrap();
        }
    }

    /// The custom ids of a file, all of whose lines must be whole.
    fn custom_ids(path: &Path) -> Vec<String> {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'));
        let id = |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["custom_id"].as_str().unwrap().to_owned()
        };
        text.lines().map(id).collect()
    }

    /// Opens what a crash left, answers what is missing, and looks whether each is there once.
    fn resume_and_check(folder: &Path) {
        let mut results = Results::open(folder, TAG, REQUESTS).unwrap();
        let before = results.answered();
        let missing: Vec<_> = (0..REQUESTS).filter(|number| !before.contains(*number)).collect();
        let (completed, failed) = results.counts();
        assert_eq!((completed + failed) as usize, REQUESTS as usize - missing.len());
        answer(&mut results, missing, "again");
        results.sync().unwrap();
        assert!(results.answered().is_complete());
        assert_eq!(results.counts(), (5, 4));
        let mut all = custom_ids(&output_path(folder));
        all.extend(custom_ids(&error_path(folder)));
        all.sort();
        let expected: Vec<_> = (0..REQUESTS).map(|number| format!("id-{number}")).collect();
        assert_eq!(all, expected);
    }

    #[test]
    fn a_write_torn_at_any_byte_costs_only_the_torn_line() {
        let whole = Folder::new();
        let mut results = Results::open(whole.path(), TAG, REQUESTS).unwrap();
        answer(&mut results, 0..7, "more\nthan \"one\" byte");
        let output = fs::read(output_path(whole.path())).unwrap();
        let errors = fs::read(error_path(whole.path())).unwrap();
        let torn = Folder::new();
        for (path, text, other_path, other) in [
            (output_path(torn.path()), &output, error_path(torn.path()), &errors),
            (error_path(torn.path()), &errors, output_path(torn.path()), &output),
        ] {
            let last = text[..text.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap();
            for length in last - 1..=text.len() {
                fs::write(&path, &text[..length]).unwrap();
                fs::write(&other_path, other).unwrap();
                resume_and_check(torn.path());
                if length % 5 != 0 {
                    continue;
                }
                // The disk had grown the file before the bytes came.
                let mut zeros = text[..length].to_vec();
                zeros.resize(text.len() + 1, 0);
                zeros.push(b'\n');
                fs::write(&path, &zeros).unwrap();
                fs::write(&other_path, other).unwrap();
                resume_and_check(torn.path());
            }
        }
    }

    #[test]
    fn a_line_that_is_there_twice_or_foreign_is_cut_off() {
        let folder = Folder::new();
        let mut results = Results::open(folder.path(), TAG, REQUESTS).unwrap();
        answer(&mut results, [0, 2], "x");
        let text = fs::read_to_string(output_path(folder.path())).unwrap();
        let first = text.lines().next().unwrap();
        for bad in [
            format!("{text}{first}\n"),
            text.replace("00000002", "0000ffff"),
            format!("{text}{}\n", first.replace(TAG, &TAG.replace('0', "f"))),
            format!("{text}{{}}\n"),
            format!("{text}\n{text}"),
        ] {
            fs::write(output_path(folder.path()), bad).unwrap();
            drop(disk::remove(&error_path(folder.path())));
            resume_and_check(folder.path());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn whatever_is_done_between_crashes_each_request_is_answered_once(
            crashes in prop::collection::vec(
                (prop::collection::vec(0..REQUESTS, 0..5), 0..200_usize, 0..200_usize, "\\PC{0,20}"),
                0..5,
            )
        ) {
            let folder = Folder::new();
            for (numbers, cut_output, cut_errors, body) in crashes {
                let mut results = Results::open(folder.path(), TAG, REQUESTS).unwrap();
                for number in numbers {
                    if !results.answered().contains(number) {
                        answer(&mut results, [number], &body);
                    }
                }
                for (path, cut) in [
                    (output_path(folder.path()), cut_output),
                    (error_path(folder.path()), cut_errors),
                ] {
                    let text = fs::read(&path).unwrap();
                    fs::write(&path, &text[..text.len().saturating_sub(cut)]).unwrap();
                }
            }
            resume_and_check(folder.path());
        }
    }
}
