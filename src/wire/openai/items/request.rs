//! Requests.

use bytes::Bytes;

use crate::call::{Fault, ItemsRequest, ItemsRoute};
use crate::tensor::Rope;
use crate::wire::fields::{Fields, list_items};
use crate::wire::openai::embeddings::input_items;
use crate::wire::openai::generation::{missing_model, model_name};
use crate::wire::predict::list_body;

/// A path that takes lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItemsPath {
    /// Rerank as Cohere and Jina have it, at this path.
    Rerank(&'static str),
    /// `/rerank`, which servers of Cohere's form share with Text Embeddings Inference.
    AnyRerank,
    /// Scores of pairs of texts, at this path.
    Score(&'static str),
    /// `/classify`.
    Classify,
    /// A route of Text Embeddings Inference that answers each of its `inputs`.
    Inputs(&'static str),
    /// `/predict` of Text Embeddings Inference.
    Predict,
}

/// A request as it came in.
#[derive(Clone, Debug)]
pub struct ParsedItems {
    /// The model that the caller names; only routes of Text Embeddings Inference do without.
    pub model: Option<String>,
    /// What is asked for.
    pub request: ItemsRequest,
    /// What becomes of the answer.
    pub terms: ReplyTerms,
}

/// What becomes of an answer before its caller gets it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplyTerms {
    /// Only the best so many are wanted.
    pub top_n: Option<usize>,
    /// The one item was not in a list, and neither is its answer.
    pub is_single: bool,
}

/// What was made of a request.
#[derive(Clone, Debug)]
pub enum Understood {
    /// Its items are known.
    Items(ParsedItems),
    /// They are not, and its instance has to look at it whole.
    Whole,
}

/// Reads a request.
///
/// # Errors
/// When the body is not such a request; the fault names the field.
pub fn parse_items(path: ItemsPath, body: &Bytes) -> Result<Understood, Fault> {
    let fields = Fields::parse(body).map_err(|error| {
        Fault::invalid("body", format!("the body is not a valid JSON object: {error}"))
    })?;
    let path = match path {
        ItemsPath::AnyRerank if fields.get("texts").is_none() => ItemsPath::Rerank("/rerank"),
        other => other,
    };
    let read = Reader { fields: &fields, body };
    let mut terms = ReplyTerms::default();
    let found = match path {
        ItemsPath::Rerank(path) => {
            terms.top_n = read.top_n()?;
            read.required("query")?;
            read.texts("documents")?.map(|items| (ItemsRoute::Rerank(path), items, "documents"))
        }
        ItemsPath::AnyRerank => {
            read.required("query")?;
            read.texts("texts")?.map(|items| (ItemsRoute::RerankTexts, items, "texts"))
        }
        ItemsPath::Score(path) => read.scores(path)?,
        ItemsPath::Classify => {
            let items = match fields.get("input") {
                // Chats and prompts in pieces are the instance's to read.
                None => None,
                Some(input) => Some(input_items("input", input)?),
            };
            items.map(|items| (ItemsRoute::Classify, read.slices(items), "input"))
        }
        ItemsPath::Inputs(path) => {
            let items = input_items("inputs", read.required("inputs")?)?;
            Some((ItemsRoute::Inputs(path), read.slices(items), "inputs"))
        }
        ItemsPath::Predict => {
            let (items, is_single) = read.sequences()?;
            terms.is_single = is_single;
            Some((ItemsRoute::PredictInputs, items, "inputs"))
        }
    };
    let Some((route, items, key)) = found else { return Ok(Understood::Whole) };
    let model = match (fields.get("model"), route.names_model()) {
        (Some(name), _) => Some(model_name(name)?.into_owned()),
        (None, false) => None,
        (None, true) => return Err(missing_model()),
    };
    let first = if matches!(route, ItemsRoute::ScorePairs(_)) { "text_1" } else { key };
    let left_out = ["model", key, first, "top_n"];
    let names = if terms.top_n.is_some() { &left_out[..] } else { &left_out[..3] };
    let options = fields.without(names);
    let is_changed = terms != ReplyTerms::default();
    let body = (!is_changed).then(|| body.clone());
    let request = ItemsRequest { route, items, options, body };
    Ok(Understood::Items(ParsedItems { model, request, terms }))
}

struct Reader<'a> {
    fields: &'a Fields<'a>,
    body: &'a Bytes,
}

type Found = Option<(ItemsRoute, Vec<Bytes>, &'static str)>;

impl<'a> Reader<'a> {
    fn required(&self, name: &'static str) -> Result<&'a str, Fault> {
        let missing = || Fault::invalid(name, format!("field '{name}' is missing"));
        self.fields.get(name).ok_or_else(missing)
    }

    fn slices(&self, items: Vec<&str>) -> Vec<Bytes> {
        items.into_iter().map(|item| self.body.slice_ref(item.as_bytes())).collect()
    }

    /// The members of a list of texts or objects; `None` for something that is no list.
    fn texts(&self, name: &'static str) -> Result<Option<Vec<Bytes>>, Fault> {
        let list = self.required(name)?;
        if list.starts_with('{') {
            return Ok(None);
        }
        let items =
            list_items(list).map_err(|error| Fault::invalid(name, format!("'{name}' {error}")))?;
        let odd = items.iter().position(|item| !item.starts_with(['"', '{']));
        match odd {
            None => Ok(Some(self.slices(items))),
            Some(index) => Err(Fault::invalid(
                format!("{name}[{index}]"),
                format!("'{name}[{index}]' must be a text, or an object that has one"),
            )),
        }
    }

    /// How many results are wanted; `None` for all, for which some servers write 0.
    fn top_n(&self) -> Result<Option<usize>, Fault> {
        let Some(text) = self.fields.get("top_n") else { return Ok(None) };
        let wrong = |_| Fault::invalid("top_n", "'top_n' must be a whole number of 1 or more");
        let top_n: usize = text.parse().map_err(wrong)?;
        Ok((top_n > 0).then_some(top_n))
    }

    /// One text against many, or as many pairs as there are texts on each side.
    fn scores(&self, path: &'static str) -> Result<Found, Fault> {
        let (Some(one), Some(two)) = (self.fields.get("text_1"), self.fields.get("text_2")) else {
            // There are other names for the sides, and more to come.
            return Ok(None);
        };
        let side = |name: &'static str, text: &'a str| match text.chars().next() {
            Some('"') => Ok(Some(vec![text])),
            Some('[') => list_items(text)
                .map(|items| items.iter().all(|item| item.starts_with('"')).then_some(items))
                .map_err(|error| Fault::invalid(name, format!("'{name}' {error}"))),
            _ => Ok(None),
        };
        let (Some(ones), Some(twos)) = (side("text_1", one)?, side("text_2", two)?) else {
            return Ok(None);
        };
        if one.starts_with('"') {
            return Ok(Some((ItemsRoute::Score(path), self.slices(twos), "text_2")));
        }
        if ones.len() != twos.len() {
            // What one text on the left means in a list is the instance's to say.
            return Ok(None);
        }
        let pair = |(one, two)| Bytes::from(format!("[{one},{two}]"));
        let pairs = ones.into_iter().zip(twos).map(pair).collect();
        Ok(Some((ItemsRoute::ScorePairs(path), pairs, "text_2")))
    }

    /// A text, a pair of texts, or a list of lists of either; and whether it is one that is in no list.
    fn sequences(&self) -> Result<(Vec<Bytes>, bool), Fault> {
        let wrong = |why: &str| Fault::invalid("inputs", format!("'inputs' {why}"));
        let inputs = self.required("inputs")?;
        if inputs.starts_with('"') {
            return Ok((vec![format!("[{inputs}]").into()], true));
        }
        let items = list_items(inputs).map_err(|error| wrong(&error.to_string()))?;
        if items.iter().all(|item| item.starts_with('[')) {
            return Ok((self.slices(items), false));
        }
        if items.len() > 2 || items.iter().any(|item| !item.starts_with('"')) {
            return Err(wrong("must be a text, a pair of texts, or a list of lists of one or two"));
        }
        Ok((vec![self.body.slice_ref(inputs.as_bytes())], true))
    }
}

/// Writes a request for an instance that knows the model as `model`.
///
/// The body goes as it came while it still says the same; a front that serves the model under
/// another name has to take it out of `request`.
pub fn write_items_request(request: &ItemsRequest, model: &str) -> Rope {
    if let Some(body) = &request.body {
        return Rope::from(body.clone());
    }
    let mut start = "{".to_owned();
    if request.route.names_model() {
        let model = serde_json::Value::from(model);
        start = format!("{{\"model\":{model},");
    }
    let mut body = match request.route {
        ItemsRoute::ScorePairs(_) => {
            let side = |place| request.items.iter().map(move |pair| side_of(pair, place)).collect();
            let (ones, twos): (Vec<_>, Vec<_>) = (side(0), side(1));
            let mut body = list_body(&format!("{start}\"text_1\":["), &ones);
            body.append(&list_body("],\"text_2\":[", &twos));
            body
        }
        route => list_body(&format!("{start}\"{}\":[", route.items_key()), &request.items),
    };
    body.push(Bytes::from_static(b"]"));
    if !request.options.is_empty() {
        body.push(Bytes::from_static(b","));
        body.push(request.options.clone());
    }
    body.push(Bytes::from_static(b"}"));
    body
}

/// One side of a pair, which is a list of two texts.
fn side_of(pair: &Bytes, place: usize) -> Bytes {
    let text = std::str::from_utf8(pair).unwrap_or_default();
    let sides = list_items(text).unwrap_or_default();
    sides
        .get(place)
        .map_or_else(|| Bytes::from_static(b"\"\""), |side| pair.slice_ref(side.as_bytes()))
}
