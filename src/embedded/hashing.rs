//! Text to vector by signed feature hashing.
//!
//! Words find texts about the same things; character n-grams of 3 to 5 let inflected, compounded
//! and misspelt words find each other. No vocabulary and no weights: a feature's hash says which
//! coordinate it moves and in which direction, so that collisions cancel on average. It is no
//! substitute for a learned model, but distances mean something, and the same text gives the same
//! vector on every machine.
//!
//! The hash is XXH3-64, a published algorithm, so vectors may be stored and compared later.

use twox_hash::XxHash3_64;
use unicode_segmentation::UnicodeSegmentation;

/// The dimensions of a vector when nobody asks for another number.
pub const DEFAULT_DIMENSIONS: usize = 256;
/// The most dimensions that a vector may have.
pub const MAX_DIMENSIONS: usize = 1536;
/// The longest text that is embedded, in bytes; a list of token ids may be a quarter as long.
pub const MAX_TEXT_BYTES: usize = 1 << 20;

const CHARACTERS_PER_GRAM: std::ops::RangeInclusive<usize> = 3..=5;
const TOKENS_PER_GRAM: std::ops::RangeInclusive<usize> = 1..=3;

// Each kind of feature has its own hash seed, so that a word and an equal n-gram stay apart.
const SEED_WORD: u64 = 1;
const SEED_CHARACTERS: u64 = 2;
const SEED_TOKENS: u64 = 3;

/// What cannot be embedded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EmbeddingError {
    /// More dimensions than there can be, or none.
    #[error("dimensions is {0}; it must be 1 to {MAX_DIMENSIONS}")]
    Dimensions(usize),
    /// A text, or list of token ids, that is too long.
    #[error(
        "the input has {bytes} bytes (4 for each token id); at most {MAX_TEXT_BYTES} are embedded"
    )]
    TooLong {
        /// Its length.
        bytes: usize,
    },
}

/// Embeds texts into vectors of length 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashingEmbedder {
    dimensions: usize,
}

impl Default for HashingEmbedder {
    fn default() -> Self {
        Self { dimensions: DEFAULT_DIMENSIONS }
    }
}

impl HashingEmbedder {
    /// An embedder into `dimensions` dimensions, 1 to [`MAX_DIMENSIONS`].
    ///
    /// # Errors
    /// When `dimensions` is out of bounds.
    pub fn new(dimensions: usize) -> Result<Self, EmbeddingError> {
        if (1..=MAX_DIMENSIONS).contains(&dimensions) {
            Ok(Self { dimensions })
        } else {
            Err(EmbeddingError::Dimensions(dimensions))
        }
    }

    /// The length of every vector.
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// The vector of a text, of Euclidean length 1.
    ///
    /// A text without any word has no features; its vector is the first axis.
    ///
    /// # Errors
    /// When the text is longer than [`MAX_TEXT_BYTES`].
    pub fn embed(&self, text: &str) -> Result<Vec<f32>, EmbeddingError> {
        check_length(text.len())?;
        let lower = text.to_lowercase();
        let mut features = Vec::with_capacity(lower.len());
        let mut marked = String::new();
        for word in lower.unicode_words() {
            features.push(XxHash3_64::oneshot_with_seed(SEED_WORD, word.as_bytes()));
            // The marks tell a word's beginning and end from its middle.
            marked.clear();
            marked.extend(["<", word, ">"]);
            push_character_grams(&marked, &mut features);
        }
        Ok(self.vector(features))
    }

    /// The vector of a text that comes as token ids; not comparable with that of the text itself.
    ///
    /// # Errors
    /// When there are more than [`MAX_TEXT_BYTES`] / 4 ids.
    pub fn embed_tokens(&self, tokens: &[u32]) -> Result<Vec<f32>, EmbeddingError> {
        check_length(tokens.len().saturating_mul(size_of::<u32>()))?;
        let mut features = Vec::with_capacity(tokens.len() * TOKENS_PER_GRAM.count());
        let mut bytes = Vec::new();
        for length in TOKENS_PER_GRAM {
            for gram in tokens.windows(length) {
                bytes.clear();
                bytes.extend(gram.iter().flat_map(|token| token.to_le_bytes()));
                features.push(XxHash3_64::oneshot_with_seed(SEED_TOKENS, &bytes));
            }
        }
        Ok(self.vector(features))
    }

    /// Adds up the features, each with the weight 1 + ln(occurrences), and scales to length 1.
    fn vector(&self, mut features: Vec<u64>) -> Vec<f32> {
        features.sort_unstable();
        let mut sums = vec![0.0_f64; self.dimensions];
        for equal in features.chunk_by(|left, right| left == right) {
            let Some(&hash) = equal.first() else { continue };
            let weight = 1.0 + (equal.len() as f64).ln();
            // The sign comes from the highest bit and the coordinate from the others.
            let coordinate = ((hash << 1 >> 1) % self.dimensions as u64) as usize;
            if let Some(sum) = sums.get_mut(coordinate) {
                *sum += if hash >> 63 == 0 { weight } else { -weight };
            }
        }
        let length = sums.iter().map(|sum| sum * sum).sum::<f64>().sqrt();
        if length > 0.0 {
            return sums.into_iter().map(|sum| (sum / length) as f32).collect();
        }
        let mut first_axis = vec![0.0; self.dimensions];
        if let Some(first) = first_axis.first_mut() {
            *first = 1.0;
        }
        first_axis
    }
}

/// How many tokens a text would have in a usual vocabulary: one for each 4 bytes begun.
pub fn approximate_tokens(text: &str) -> usize {
    text.len().div_ceil(4)
}

fn check_length(bytes: usize) -> Result<(), EmbeddingError> {
    if bytes <= MAX_TEXT_BYTES { Ok(()) } else { Err(EmbeddingError::TooLong { bytes }) }
}

fn push_character_grams(word: &str, features: &mut Vec<u64>) {
    for length in CHARACTERS_PER_GRAM {
        let ends = word.char_indices().map(|(start, one)| start + one.len_utf8()).skip(length - 1);
        for ((start, _), end) in word.char_indices().zip(ends) {
            if let Some(gram) = word.get(start..end) {
                features.push(XxHash3_64::oneshot_with_seed(SEED_CHARACTERS, gram.as_bytes()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn embed(text: &str) -> Vec<f32> {
        HashingEmbedder::default().embed(text).unwrap()
    }

    fn cosine(left: &[f32], right: &[f32]) -> f32 {
        left.iter().zip(right).map(|(l, r)| l * r).sum()
    }

    fn length(vector: &[f32]) -> f32 {
        cosine(vector, vector).sqrt()
    }

    #[test]
    fn the_published_hash_is_used() {
        // Test vectors of XXH3-64 with seed 0, from the algorithm's own documentation.
        assert_eq!(XxHash3_64::oneshot_with_seed(0, b""), 0x2d06_8005_38d3_94c2);
    }

    #[test]
    fn a_vector_never_changes() {
        let vector = HashingEmbedder::new(8).unwrap().embed("Batching pays.").unwrap();
        // By a second implementation, in another language.
        let expected = [
            0.0,
            -0.353_553_4,
            -0.353_553_4,
            0.589_255_7,
            -0.235_702_3,
            -0.471_404_5,
            0.353_553_4,
            0.0,
        ];
        for (value, expected) in vector.iter().zip(expected) {
            assert!((value - expected).abs() < 1e-6, "{vector:?}");
        }
    }

    #[test]
    fn vectors_have_length_one() {
        for text in ["", " \n", "?!", "a", "a b c", "Straße 字字字 🦀", &"word ".repeat(10_000)]
        {
            for dimensions in [1, 2, 256, MAX_DIMENSIONS] {
                let vector = HashingEmbedder::new(dimensions).unwrap().embed(text).unwrap();
                assert_eq!(vector.len(), dimensions);
                assert!((length(&vector) - 1.0).abs() < 1e-5, "{text:?}");
            }
        }
    }

    #[test]
    fn a_text_without_words_is_the_first_axis() {
        for text in ["", "  ", "?!"] {
            let vector = embed(text);
            assert_eq!(vector[0], 1.0);
            assert!(vector[1..].iter().all(|value| *value == 0.0));
        }
    }

    #[test]
    fn similar_texts_are_closer_than_unrelated_ones() {
        let pairs = [
            ("the cat sat on the mat", "a cat is sitting on a mat", "interest rates rose sharply"),
            ("how do I reset my password", "password reset", "chocolate cake with cherries"),
            ("die Rechnung bezahlen", "Bezahlung der Rechnungen", "ein Spaziergang am See"),
            ("高速な推論サーバー", "推論サーバーの速度", "今日は天気がいい"),
        ];
        for (text, similar, unrelated) in pairs {
            let text = embed(text);
            let (near, far) = (cosine(&text, &embed(similar)), cosine(&text, &embed(unrelated)));
            assert!(near > far + 0.15, "{similar}: {near}, {unrelated}: {far}");
        }
    }

    #[test]
    fn case_and_punctuation_do_not_matter_but_words_do() {
        assert_eq!(embed("Hello, World!"), embed("hello world"));
        assert_ne!(embed("hello world"), embed("hello word"));
    }

    #[test]
    fn repeating_a_word_adds_less_than_linearly() {
        let (cat, dog) = (embed("cat"), embed("dog"));
        let much = embed(&format!("dog {}", "cat ".repeat(100)));
        assert!(cosine(&much, &cat) > cosine(&much, &dog));
        // By linear counts the dog would be 0.01 of the sum.
        assert!(cosine(&much, &dog) > 0.1);
    }

    #[test]
    fn token_ids_have_vectors_that_depend_on_their_order() {
        let embedder = HashingEmbedder::default();
        let vector = |tokens: &[u32]| embedder.embed_tokens(tokens).unwrap();
        let (text, close, far) =
            (vector(&[5, 6, 7, 8]), vector(&[5, 6, 7, 9]), vector(&[1, 2, 3, 4]));
        assert!(cosine(&text, &close) > cosine(&text, &far) + 0.3);
        assert_ne!(text, vector(&[8, 7, 6, 5]));
        assert!((length(&text) - 1.0).abs() < 1e-5);
        assert_eq!(vector(&[])[0], 1.0);
    }

    #[test]
    fn bounds_are_kept() {
        assert_eq!(HashingEmbedder::new(0), Err(EmbeddingError::Dimensions(0)));
        assert_eq!(
            HashingEmbedder::new(MAX_DIMENSIONS + 1),
            Err(EmbeddingError::Dimensions(MAX_DIMENSIONS + 1))
        );
        let embedder = HashingEmbedder::default();
        let long = "a".repeat(MAX_TEXT_BYTES + 1);
        assert_eq!(
            embedder.embed(&long),
            Err(EmbeddingError::TooLong { bytes: MAX_TEXT_BYTES + 1 })
        );
        assert!(embedder.embed_tokens(&vec![0; MAX_TEXT_BYTES / 4 + 1]).is_err());
    }

    #[test]
    fn tokens_are_counted_by_length() {
        assert_eq!([0, 1, 4, 5].map(|n| approximate_tokens(&"x".repeat(n))), [0, 1, 1, 2]);
    }
}
