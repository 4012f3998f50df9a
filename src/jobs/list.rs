//! Lists, a page at a time.

use serde::Serialize;

use crate::call::Fault;

/// Which part of a list is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The id after which it begins; `None`: at the beginning.
    pub after: Option<String>,
    /// The most members.
    pub limit: usize,
    /// Whether the oldest comes first.
    pub is_ascending: bool,
}

/// A part of a list, as OpenAI's clients know it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct List<T> {
    object: &'static str,
    data: Vec<T>,
    first_id: Option<String>,
    last_id: Option<String>,
    has_more: bool,
}

/// The part of `all` that is wanted; `key` gives when a member was made and its id.
///
/// # Errors
/// When there is nothing of the id after which it begins.
pub(super) fn page<M, T>(
    mut all: Vec<M>,
    page: &Page,
    key: impl Fn(&M) -> (u64, &str),
    show: impl Fn(&M) -> T,
) -> Result<List<T>, Fault> {
    all.sort_by(|one, two| {
        let order = key(one).cmp(&key(two));
        if page.is_ascending { order } else { order.reverse() }
    });
    let start = match &page.after {
        None => 0,
        Some(after) => {
            let place = all.iter().position(|member| key(member).1 == after);
            place.map(|place| place + 1).ok_or_else(|| {
                Fault::invalid("after", format!("'after' names nothing of this list: {after:.100}"))
            })?
        }
    };
    let rest = all.get(start..).unwrap_or_default();
    let shown = rest.get(..page.limit).unwrap_or(rest);
    let id = |member: Option<&M>| member.map(|member| key(member).1.to_owned());
    Ok(List {
        object: "list",
        first_id: id(shown.first()),
        last_id: id(shown.last()),
        has_more: shown.len() < rest.len(),
        data: shown.iter().map(show).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(after: Option<&str>, limit: usize, is_ascending: bool) -> (String, bool) {
        let all = vec![(2, "b"), (1, "a"), (3, "d"), (3, "c")];
        let wanted = Page { after: after.map(str::to_owned), limit, is_ascending };
        let list = page(all, &wanted, |&(made, id)| (made, id), |&(_, id)| id).unwrap();
        assert_eq!(list.first_id.as_deref(), list.data.first().copied());
        assert_eq!(list.last_id.as_deref(), list.data.last().copied());
        (list.data.concat(), list.has_more)
    }

    #[test]
    fn pages_follow_each_other() {
        assert_eq!(ids(None, 3, false), ("dcb".into(), true));
        assert_eq!(ids(Some("b"), 3, false), ("a".into(), false));
        assert_eq!(ids(None, 4, true), ("abcd".into(), false));
        assert_eq!(ids(Some("a"), 1, false), (String::new(), false));
        let nowhere = Page { after: Some("x".into()), limit: 1, is_ascending: true };
        assert!(page(vec![(1, "a")], &nowhere, |&(made, id)| (made, id), |_| ()).is_err());
    }
}
