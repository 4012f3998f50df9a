//! Mutations of inputs: what a fuzzer does without looking at the code.

use crate::fuzz::Random;

/// The longest input that is made, in bytes.
const LONGEST: usize = 4096;

/// Numbers at which decoders go wrong.
const NUMBERS: [i64; 15] = [
    0,
    1,
    -1,
    4,
    127,
    128,
    255,
    256,
    65_535,
    65_536,
    i32::MAX as i64,
    u32::MAX as i64,
    1 << 32,
    i64::MAX,
    i64::MIN,
];

/// What texts are made of.
const TOKENS: [&str; 30] = [
    "{",
    "}",
    "[",
    "]",
    "[[",
    "]]",
    ":",
    ",",
    "\"",
    "\\",
    "\\u0000",
    "\\ud800",
    "null",
    "true",
    "false",
    "-",
    "-0",
    "1e400",
    "0.1",
    "18446744073709551616",
    "\n",
    "\r\n",
    "\0",
    "é",
    "{\"b64\":\"AA==\"}",
    "\"data\":[1]",
    "%",
    "#",
    "=",
    "http://",
];

/// One of the inputs, changed in one to four places.
pub(crate) fn mutated(inputs: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = pick(inputs, random).cloned().unwrap_or_default();
    for _ in 0..=random.below(4) {
        mutate(&mut input, inputs, random);
    }
    input.truncate(LONGEST);
    input
}

fn mutate(input: &mut Vec<u8>, inputs: &[Vec<u8>], random: &mut Random) {
    let at = random.below(input.len() + 1);
    match random.below(9) {
        0 => flip(input, at, random),
        1 => {
            let count = 1 + random.below(8);
            let bytes: Vec<u8> = (0..count).map(|_| random.number() as u8).collect();
            replace(input, at, 0, &bytes);
        }
        2 => {
            let count = 1 + random.below(16);
            replace(input, at, count, &[]);
        }
        3 => splice(input, at, inputs, random),
        4 => {
            let number = NUMBERS[random.below(NUMBERS.len())];
            let width = [1, 2, 4, 8][random.below(4)];
            replace(input, at, width, &number.to_le_bytes()[..width]);
        }
        5 => written_number(input, at, random),
        6 => {
            let token = TOKENS[random.below(TOKENS.len())];
            replace(input, at, random.below(3), token.as_bytes());
        }
        7 => {
            let end = (at + 1 + random.below(32)).min(input.len());
            let again = input[at..end].to_vec();
            replace(input, at, 0, &again);
        }
        _ => input.truncate(at),
    }
}

fn flip(input: &mut [u8], at: usize, random: &mut Random) {
    if let Some(byte) = input.get_mut(at) {
        *byte ^= 1 << random.below(8);
    }
}

fn replace(input: &mut Vec<u8>, at: usize, count: usize, with: &[u8]) {
    let end = (at + count).min(input.len());
    input.splice(at..end, with.iter().copied());
}

/// The start of this input and the end of another.
fn splice(input: &mut Vec<u8>, at: usize, inputs: &[Vec<u8>], random: &mut Random) {
    let Some(other) = pick(inputs, random) else { return };
    input.truncate(at);
    input.extend_from_slice(&other[random.below(other.len() + 1)..]);
}

/// Another number in the place of the first one, in digits, that stands at `at` or behind it.
fn written_number(input: &mut Vec<u8>, at: usize, random: &mut Random) {
    let is_digit = |byte: &u8| byte.is_ascii_digit();
    let Some(start) = input[at..].iter().position(is_digit).map(|start| at + start) else { return };
    let count = input[start..].iter().take_while(|byte| is_digit(byte)).count();
    let number = NUMBERS[random.below(NUMBERS.len())].to_string();
    replace(input, start, count, number.as_bytes());
}

fn pick<'a>(inputs: &'a [Vec<u8>], random: &mut Random) -> Option<&'a Vec<u8>> {
    inputs.get(random.below(inputs.len()))
}
