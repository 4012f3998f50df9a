//! Replies.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{ReplyTerms, reply_form};
use crate::call::{ItemsAnswer, ItemsRoute, Usage};
use crate::tensor::Rope;
use crate::wire::ReplyError;
use crate::wire::fields::{Fields, also_null, bounded_items, from_object};
use crate::wire::openai::embeddings::renamed;
use crate::wire::openai::generation::place_of;
use crate::wire::predict::list_body;

#[derive(Deserialize)]
struct UsageDocument {
    prompt_tokens: Option<u64>,
    total_tokens: Option<u64>,
}

/// Reads an instance's reply: the text of the member for each of the request's items, in their order,
/// and what they cost.
///
/// # Errors
/// When it has not exactly one member for each of `rows` items.
pub fn parse_items_reply(
    route: ItemsRoute,
    body: &Bytes,
    rows: usize,
) -> Result<(Vec<Bytes>, Option<Usage>), ReplyError> {
    let form = reply_form(route);
    let text = std::str::from_utf8(body).map_err(|error| ReplyError(error.to_string()))?;
    let (list, usage) = match form.list {
        None => {
            let list: &RawValue =
                serde_json::from_str(text).map_err(|error| ReplyError::json(&error))?;
            (list.get(), None)
        }
        Some(name) => {
            let fields = Fields::parse(body).map_err(|error| ReplyError::json(&error))?;
            let missing = || ReplyError(format!("there is no '{name}'"));
            (fields.get(name).ok_or_else(missing)?, usage_of(&fields))
        }
    };
    let what = form.list.unwrap_or("the reply");
    let members = bounded_items(list, rows)
        .map_err(|_| ReplyError(format!("'{what}' is not a list of {rows} members")))?;
    if members.len() != rows {
        return Err(ReplyError(format!("{} results for {rows} items", members.len())));
    }
    let mut items = vec![Bytes::new(); rows];
    for (place, member) in members.into_iter().enumerate() {
        let index = if form.is_indexed { index_of(member, form.is_ranked)? } else { None };
        let index = index.unwrap_or(place);
        let slot = items.get_mut(index).filter(|slot| slot.is_empty()).ok_or_else(|| {
            ReplyError(format!(
                "member {place} of '{what}' has the index {index}, which is taken or too large"
            ))
        })?;
        *slot = body.slice_ref(member.as_bytes());
    }
    if form.is_ranked {
        items.iter().try_for_each(|item| score_of(item).map(drop))?;
    }
    Ok((items, usage))
}

fn usage_of(fields: &Fields<'_>) -> Option<Usage> {
    let UsageDocument { prompt_tokens, total_tokens } =
        serde_json::from_str(fields.get("usage")?).ok()?;
    let total = total_tokens.or(prompt_tokens)?;
    // Nothing is written for a list but its members: what was not read was not paid for.
    Some(Usage { prompt_tokens: prompt_tokens.unwrap_or(total), total_tokens: total })
}

#[derive(Deserialize)]
struct Indexed<'a> {
    #[serde(borrow, default, deserialize_with = "also_null")]
    index: Option<&'a RawValue>,
}

/// Which item a member is for; `None` where that goes without saying.
fn index_of(member: &str, is_ranked: bool) -> Result<Option<usize>, ReplyError> {
    let indexed: Indexed<'_> =
        from_object(member.as_bytes()).map_err(|error| ReplyError::json(&error))?;
    match indexed.index.map(|index| index.get().parse()) {
        Some(Ok(index)) => Ok(Some(index)),
        Some(Err(_)) => Err(ReplyError("an 'index' is not a whole number".to_owned())),
        None if is_ranked => Err(ReplyError("a result has no 'index'".to_owned())),
        None => Ok(None),
    }
}

fn score_of(result: &[u8]) -> Result<f64, ReplyError> {
    #[derive(Deserialize)]
    struct Scored {
        relevance_score: Option<f64>,
        score: Option<f64>,
    }
    let scored: Scored = from_object(result).map_err(|error| ReplyError::json(&error))?;
    let score = scored.relevance_score.or(scored.score);
    score.ok_or_else(|| ReplyError("a result has no score".to_owned()))
}

/// What a reply says besides its list, where no instance has said it.
#[derive(Clone, Copy, Debug)]
pub struct ReplyHead<'a> {
    /// What makes the reply's id unique.
    pub id: &'a str,
    /// The time, as Unix seconds.
    pub created: u64,
    /// The model as its caller names it.
    pub model: &'a str,
    /// The model as instances know it.
    pub upstream_name: &'a str,
}

/// Writes the reply to a caller.
///
/// The instance's own body goes as it came, but for the model's name, when it was this call's alone and
/// all of it is wanted. Of a ranking only the list changes then where not all is wanted.
///
/// # Errors
/// When a member of the answer is not what the route's replies are made of.
pub fn write_items_reply(
    route: ItemsRoute,
    head: ReplyHead<'_>,
    answer: &ItemsAnswer,
    terms: ReplyTerms,
) -> Result<Rope, ReplyError> {
    if terms.is_single
        && let [item] = answer.items.as_slice()
    {
        return Ok(Rope::from(item.clone()));
    }
    let form = reply_form(route);
    let own = answer.body.as_ref();
    let all = terms.top_n.is_none_or(|top_n| top_n >= answer.items.len());
    if let Some(body) = own.filter(|_| all) {
        return Ok(Rope::from(renamed(body, head.model, head.upstream_name)));
    }
    let Some(name) = form.list else {
        let mut list = list_body("[", &members(route, answer, terms)?);
        list.push(Bytes::from_static(b"]"));
        return Ok(list);
    };
    let members = members(route, answer, terms)?;
    if let Some(body) = own {
        let body = renamed(body, head.model, head.upstream_name);
        let fields = Fields::parse(&body).map_err(|error| ReplyError::json(&error))?;
        let missing = || ReplyError(format!("there is no '{name}'"));
        let place = place_of(fields.get(name).ok_or_else(missing)?, &body);
        let mut reply = Rope::from(body.slice(..place.start));
        reply.append(&list_body("[", &members));
        reply.push(Bytes::from_static(b"]"));
        reply.push(body.slice(place.end..));
        return Ok(reply);
    }
    Ok(enveloped(route, head, answer, &members))
}

/// The members in the order of the reply, each with the index that its caller knows its item by.
fn members(
    route: ItemsRoute,
    answer: &ItemsAnswer,
    terms: ReplyTerms,
) -> Result<Vec<Bytes>, ReplyError> {
    let form = reply_form(route);
    if !form.is_indexed {
        return Ok(answer.items.clone());
    }
    let mut ranked: Vec<(usize, &Bytes, f64)> = Vec::with_capacity(answer.items.len());
    for (index, item) in answer.items.iter().enumerate() {
        ranked.push((index, item, if form.is_ranked { score_of(item)? } else { 0.0 }));
    }
    // Of equals the first stays first.
    ranked.sort_by(|one, two| two.2.total_cmp(&one.2));
    ranked.truncate(terms.top_n.unwrap_or(usize::MAX));
    ranked.into_iter().map(|(index, item, _)| with_index(item, index)).collect()
}

/// The member with another index, and every other byte as it was.
fn with_index(member: &Bytes, index: usize) -> Result<Bytes, ReplyError> {
    let indexed: Indexed<'_> = from_object(member).map_err(|error| ReplyError::json(&error))?;
    let (place, text) = match indexed.index {
        Some(old) if old.get().parse() == Ok(index) => return Ok(member.clone()),
        Some(old) => (place_of(old.get(), member), index.to_string()),
        None => {
            let inside = member.trim_ascii_start().get(1..).unwrap_or_default();
            let comma = if inside.trim_ascii_start().starts_with(b"}") { "" } else { "," };
            let start = member.len() - inside.len();
            (start..start, format!("\"index\":{index}{comma}"))
        }
    };
    let (before, after) = (member.get(..place.start), member.get(place.end..));
    let parts = [before.unwrap_or_default(), text.as_bytes(), after.unwrap_or_default()];
    Ok(parts.concat().into())
}

/// The whole reply, where no instance has sent it.
fn enveloped(
    route: ItemsRoute,
    head: ReplyHead<'_>,
    answer: &ItemsAnswer,
    members: &[Bytes],
) -> Rope {
    let (kind, list) = match route {
        ItemsRoute::Rerank(_) => ("rerank", "results"),
        ItemsRoute::Classify => ("classify", "data"),
        _ => ("score", "data"),
    };
    let id = serde_json::Value::from(format!("{kind}-{}", head.id));
    let model = serde_json::Value::from(head.model);
    let about = match kind {
        "rerank" => String::new(),
        _ => format!("\"object\":\"list\",\"created\":{},", head.created),
    };
    let start = format!("{{\"id\":{id},{about}\"model\":{model},\"{list}\":[");
    let mut reply = list_body(&start, members);
    let usage = answer.usage.map_or_else(String::new, |usage| {
        let Usage { prompt_tokens, total_tokens } = usage;
        format!(",\"usage\":{{\"prompt_tokens\":{prompt_tokens},\"total_tokens\":{total_tokens}}}")
    });
    reply.push(format!("]{usage}}}").into());
    reply
}
