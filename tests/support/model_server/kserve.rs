//! What KServe v2 means, whether it came over gRPC or HTTP.

use super::engine::Engine;
use super::settings::FaultStatus;
use super::statistics::Seen;
use super::tensor::Tensor;

pub(super) const SERVER_NAME: &str = "model-server";
pub(super) const SERVER_VERSION: &str = "1.0";
pub(super) const PLATFORM: &str = "linear";
pub(super) const EXTENSIONS: [&str; 4] =
    ["binary_tensor_data", "model_configuration", "model_repository", "statistics"];

/// What the process says about its end when a call was lethal.
const LETHAL_EXIT_CODE: i32 = 86;

/// Executes the inputs as one batch and answers with the requested outputs, all when none is named.
pub(super) async fn infer(
    engine: &Engine,
    model: &str,
    inputs: &[Tensor],
    requested: Vec<&str>,
    seen: Option<Seen>,
) -> Result<Vec<Tensor>, FaultStatus> {
    let Some(first) = inputs.first() else {
        return Err(FaultStatus::invalid("a request needs at least one input"));
    };
    let rows = first.rows();
    for input in inputs {
        input.check().map_err(FaultStatus::invalid)?;
        if input.rows() != rows {
            let (name, found) = (&input.name, input.rows());
            let message = format!("input '{name}' has {found} rows, the first input {rows}");
            return Err(FaultStatus::invalid(message));
        }
    }
    if engine.lethal_number().is_some_and(|number| inputs.iter().any(|input| input.holds(number))) {
        std::process::exit(LETHAL_EXIT_CODE);
    }
    let limit = engine.switches.read(|settings| settings.journal);
    let _visit = (limit > 0).then(|| engine.journal.begin(first.first_of_rows(), limit));
    engine.tell(model, || first.texts(usize::MAX));
    let poisoned =
        engine.poison().is_some_and(|poison| inputs.iter().any(|input| input.poisoned(&poison)));
    let executed = engine.execute(rows, poisoned, seen).await?;
    let mut outputs: Vec<_> = inputs.iter().map(Tensor::linear).collect();
    for name in &requested {
        if !outputs.iter().any(|output| output.name == *name) {
            return Err(FaultStatus::invalid(format!("unknown output '{name}'")));
        }
    }
    if !requested.is_empty() {
        outputs.retain(|output| requested.contains(&output.name.as_str()));
    }
    if executed.wrong_rows {
        outputs = outputs.into_iter().map(Tensor::without_last_row).collect();
    }
    Ok(outputs)
}

/// The record of a call, without its headers, parameters and body.
pub(super) fn seen(path: &str, model: &str, id: &str, inputs: &[Tensor]) -> Seen {
    Seen {
        model: model.to_owned(),
        path: path.to_owned(),
        rows: inputs.first().map_or(0, Tensor::rows),
        id: id.to_owned(),
        first: inputs.first().map(Tensor::first).unwrap_or_default(),
        ..Seen::default()
    }
}
