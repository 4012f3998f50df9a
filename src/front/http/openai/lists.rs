//! Rerank, scores and classes, and the routes that Text Embeddings Inference has of its own.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::{Extension, Request, State};
use axum::response::Response;
use axum::routing::post;
use bytes::Bytes;
use http::HeaderMap;

use super::super::body::Unread;
use super::super::heavy::heavy;
use super::super::problem::{self, Dialect};
use super::super::request_id::RequestId;
use super::super::v2::wrong_answer;
use super::super::{HttpState, reply, terms};
use super::{Asked, count_usage, read, relayed, take_whole, told};
use crate::call::{Answer, Fault, FaultKind, ItemsRequest, ItemsRoute, RelayRequest, Terms, Work};
use crate::engine::{Model, WorkKind};
use crate::front::find::{find_model, wrong_route};
use crate::front::visit::Visit;
use crate::telemetry::Via;
use crate::wire::openai::{
    ItemsPath, ParsedItems, ReplyHead, ReplyTerms, Understood, parse_items, write_items_reply,
};

const PATHS: [(&str, ItemsPath); 10] = [
    ("/v1/rerank", ItemsPath::Rerank("/v1/rerank")),
    ("/v2/rerank", ItemsPath::Rerank("/v2/rerank")),
    ("/rerank", ItemsPath::AnyRerank),
    ("/v1/score", ItemsPath::Score("/v1/score")),
    ("/score", ItemsPath::Score("/score")),
    ("/classify", ItemsPath::Classify),
    ("/embed", ItemsPath::Inputs("/embed")),
    ("/embed_all", ItemsPath::Inputs("/embed_all")),
    ("/embed_sparse", ItemsPath::Inputs("/embed_sparse")),
    ("/predict", ItemsPath::Predict),
];

/// The routes that take lists of texts.
pub(in super::super) fn routes() -> Router<Arc<HttpState>> {
    PATHS.into_iter().fold(Router::new(), |router, (path, items)| {
        let answer = move |State(state): State<Arc<HttpState>>,
                           Extension(id): Extension<RequestId>,
                           request: Request| async move {
            answer(path, items, &state, &id, request).await
        };
        router.route(path, post(answer))
    })
}

/// What is to be done for a request.
enum Listed {
    Items(ItemsRequest, ReplyTerms),
    /// Its instance has to look at it whole.
    Whole(RelayRequest),
}

async fn answer(
    path: &'static str,
    items: ItemsPath,
    state: &HttpState,
    id: &RequestId,
    request: Request,
) -> Response {
    let mut visit = Visit::new(&state.front, Via::OpenAi);
    let (parts, mut body) = Unread::of(request);
    let dialect = Dialect::of_path(path);
    let asked = take_in(path, items, state, &mut visit, id, &parts.headers, &mut body).await;
    let Asked { model, name, work, terms, _lease } = match visit.end(asked) {
        Ok(asked) => asked,
        Err(fault) => return body.dismiss(&parts, problem::respond(dialect, &fault)).await,
    };
    let answered = match work {
        Listed::Items(request, wanted) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let head = ReplyHead {
                id: id.as_str(),
                created: now.as_secs(),
                model: &name,
                upstream_name: &model.plan().upstream_name,
            };
            listed(&model, request, (wanted, head), terms, id).await
        }
        Listed::Whole(work) => relayed(&model, work, terms, id).await,
    };
    answered.unwrap_or_else(|fault| problem::respond(dialect, &fault))
}

async fn listed(
    model: &Model,
    request: ItemsRequest,
    (wanted, head): (ReplyTerms, ReplyHead<'_>),
    terms: Terms,
    id: &RequestId,
) -> Result<Response, Fault> {
    let route = request.route;
    let served = model.call(Work::Items(request), terms, Via::OpenAi).await?;
    let Answer::Items(answer) = &served.answer else { return Err(wrong_answer()) };
    let bytes = answer.items.iter().map(Bytes::len).sum();
    let body = heavy(bytes, || write_items_reply(route, head, answer, wanted));
    let body = body.map_err(|error| Fault::new(FaultKind::Upstream, error.to_string()))?;
    count_usage(model, answer);
    Ok(told(reply::json_text(body), id, &served.timing))
}

async fn take_in(
    path: &'static str,
    items: ItemsPath,
    state: &HttpState,
    visit: &mut Visit,
    id: &RequestId,
    headers: &HeaderMap,
    body: &mut Unread,
) -> Result<Asked<Listed>, Fault> {
    let (body, mut lease) = read(state, visit, headers, body).await?;
    let ParsedItems { model: name, mut request, terms: wanted } =
        match heavy(body.len(), || parse_items(items, &body))? {
            Understood::Items(parsed) => parsed,
            Understood::Whole => {
                let asked = take_whole(path, state, visit, id, headers, (body, lease))?;
                let Asked { model, name, work: text, terms, mut _lease } = asked;
                let work = text.request(&model, &mut _lease);
                let terms = text.terms(&terms, &model);
                return Ok(Asked { model, name, work: Listed::Whole(work), terms, _lease });
            }
        };
    let model = match &name {
        Some(name) => find_model(&state.models, name, "")?,
        None => only_model(state)?,
    };
    visit.is_for(&model);
    if !answers_lists(&model) {
        return Err(wrong_route(&model));
    }
    if let ItemsRoute::ScorePairs(_) = request.route {
        // A pair is put together of two places of the body.
        lease.grow_by(request.items.iter().map(Bytes::len).sum())?;
    }
    let trusted = state.front.trust_tenant_header;
    let terms = terms::read(headers, id, &model, visit.arrived(), trusted)?;
    if name.as_ref().is_some_and(|name| model.plan().upstream_name != *name) {
        // The body names the model as the caller does.
        request.body = None;
    }
    let name = name.unwrap_or_else(|| model.name().to_owned());
    Ok(Asked { model, name, work: Listed::Items(request, wanted), terms, _lease: lease })
}

fn answers_lists(model: &Model) -> bool {
    matches!(model.kind(), WorkKind::OpenAi { lists: true, .. })
}

/// The model that is meant where none is named.
fn only_model(state: &HttpState) -> Result<Arc<Model>, Fault> {
    let models = state.models.current();
    let mut able = models.values().filter(|model| answers_lists(model));
    match (able.next(), able.next()) {
        (Some(only), None) => Ok(Arc::clone(only)),
        (Some(_), Some(_)) => {
            let message = "several models answer this route; name one of them in field 'model'";
            Err(Fault::invalid("model", message))
        }
        (None, _) => {
            let message = "there is no model that answers this route";
            Err(Fault::new(FaultKind::UnknownModel, message).with_field("model"))
        }
    }
}
