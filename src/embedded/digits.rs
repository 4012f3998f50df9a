//! The built-in `digits` model; `training/` says how it was made.

use super::{LoadError, OnnxModel};

const MODEL: &[u8] = include_bytes!("../../models/digits.onnx");

/// Loads the built-in reader of handwritten digits.
///
/// Input `image`: FP32 `[n, 64]`, the pixels of 8x8 images row by row, 0 (paper) to 16 (ink).
/// Outputs: `label` INT64 `[n]`, the digit; `scores` FP32 `[n, 10]`, the probability of each.
///
/// # Errors
/// When the model cannot be prepared; it is part of the program, so that means a broken build.
pub fn digits() -> Result<OnnxModel, LoadError> {
    OnnxModel::from_bytes(MODEL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{DataType, Rope, Shape, Tensor};

    const HELD_OUT: &str = include_str!("../../tests/data/digits_heldout.csv");

    /// The labels and the pixels of the images that the model was not trained on.
    fn held_out() -> (Vec<i64>, Vec<Vec<f32>>) {
        HELD_OUT
            .lines()
            .skip(1)
            .map(|line| {
                let mut fields = line.split(',');
                let label: i64 = fields.next().unwrap().parse().unwrap();
                (label, fields.map(|pixel| pixel.parse().unwrap()).collect())
            })
            .unzip()
    }

    fn images(rows: &[Vec<f32>]) -> Tensor {
        let bytes: Vec<u8> = rows.iter().flatten().flat_map(|pixel| pixel.to_le_bytes()).collect();
        let shape = Shape::from(&[rows.len() as u64, 64][..]);
        Tensor::new("image", DataType::Fp32, shape, Rope::from(bytes)).unwrap()
    }

    fn labels(outputs: &[Tensor]) -> Vec<i64> {
        assert_eq!((outputs[0].name(), outputs[0].datatype()), ("label", DataType::Int64));
        let bytes = outputs[0].data().to_bytes();
        bytes.chunks(8).map(|eight| i64::from_le_bytes(eight.try_into().unwrap())).collect()
    }

    fn scores(outputs: &[Tensor]) -> Vec<f32> {
        assert_eq!((outputs[1].name(), outputs[1].datatype()), ("scores", DataType::Fp32));
        let bytes = outputs[1].data().to_bytes();
        bytes.chunks(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect()
    }

    #[test]
    fn the_model_is_described() {
        let model = digits().unwrap();
        let described = |all: &[crate::embedded::TensorSignature]| -> Vec<String> {
            all.iter().map(ToString::to_string).collect()
        };
        assert_eq!(described(model.inputs()), ["'image' FP32 [-1, 64]"]);
        assert_eq!(described(model.outputs()), ["'label' INT64 [-1]", "'scores' FP32 [-1, 10]"]);
    }

    #[test]
    fn images_that_were_held_out_are_read() {
        let (expected, rows) = held_out();
        assert_eq!(rows.len(), 450);
        let outputs = digits().unwrap().run(&[images(&rows)]).unwrap();
        let labels = labels(&outputs);
        assert_eq!(labels.len(), expected.len());
        let right = labels.iter().zip(&expected).filter(|(got, wanted)| got == wanted).count();
        let accuracy = right as f64 / expected.len() as f64;
        assert!(accuracy >= 0.97, "{right} of {} right", expected.len());
    }

    #[test]
    fn scores_are_probabilities_and_the_label_is_the_likeliest() {
        let (_, rows) = held_out();
        let outputs = digits().unwrap().run(&[images(&rows)]).unwrap();
        let scores = scores(&outputs);
        assert_eq!(outputs[1].shape().axes(), [450, 10]);
        for (row, label) in scores.chunks(10).zip(labels(&outputs)) {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
            assert!(row.iter().all(|score| (0.0..=1.0).contains(score)));
            let likeliest = (0..10).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
            assert_eq!(i64::try_from(likeliest).unwrap(), label);
        }
    }

    /// Kernels add in an order that depends on the number of rows, so scores agree to 1e-5 only.
    #[test]
    fn a_batch_answers_what_its_rows_would_get_alone() {
        let model = digits().unwrap();
        let (_, rows) = held_out();
        for size in [2, 3, 8, 17, 64] {
            let rows = &rows[..size];
            let together = model.run(&[images(rows)]).unwrap();
            let (all_labels, all_scores) = (labels(&together), scores(&together));
            for (index, row) in rows.iter().enumerate() {
                let alone = model.run(&[images(std::slice::from_ref(row))]).unwrap();
                assert_eq!(labels(&alone), [all_labels[index]]);
                for (one, other) in scores(&alone).iter().zip(&all_scores[index * 10..]) {
                    assert!((one - other).abs() <= 1e-5, "row {index} of {size}");
                }
            }
        }
    }

    #[test]
    fn threads_share_a_model() {
        let model = digits().unwrap();
        let (_, rows) = held_out();
        let expected = model.run(&[images(&rows)]).unwrap();
        std::thread::scope(|scope| {
            let run = || model.run(&[images(&rows)]).unwrap();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
            for thread in threads {
                assert_eq!(thread.join().unwrap(), expected);
            }
        });
    }
}
