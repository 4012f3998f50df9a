//! A reply as server-sent events.

use bytes::Bytes;

use super::pieces::Pieces;
use super::reply::{Choice, Delta, FinishReason, Reply, Usage};
use super::{Echo, Route};

/// The events of a streamed reply, each made when it is asked for; the reader sets the pace.
///
/// ```text
/// chat:       choice by choice: Role -> Word* -> Finish
/// completion: choice by choice:         Word* -> Finish
/// then, if usage was asked for, Usage; then Done
/// ```
#[derive(Clone, Debug)]
pub struct EchoEvents {
    echo: Echo,
    next: Next,
}

#[derive(Clone, Copy, Debug)]
enum Next {
    Role {
        choice: usize,
    },
    /// The word that begins at byte `said` of the choice's text, or the end of the choice.
    Word {
        choice: usize,
        said: usize,
    },
    Usage,
    Done,
    Nothing,
}

impl EchoEvents {
    pub(super) fn new(echo: Echo) -> Self {
        let next = first_of_choice(&echo, 0);
        Self { echo, next }
    }

    fn word_or_finish(&self, choice: usize, said: usize) -> (Bytes, Next) {
        let answer = self.echo.answers.get(choice);
        let rest = answer.and_then(|answer| answer.text.get(said..)).unwrap_or_default();
        if let Some(piece) = Pieces::new(rest).next() {
            let next = Next::Word { choice, said: said + piece.len() };
            return (self.said(choice, Some(piece), None), next);
        }
        let event = self.said(choice, None, answer.map(|answer| answer.finish_reason));
        (event, first_of_choice(&self.echo, choice + 1))
    }

    fn said(
        &self,
        choice: usize,
        piece: Option<&str>,
        finish_reason: Option<FinishReason>,
    ) -> Bytes {
        let choice = match self.echo.route {
            Route::Chat => {
                let delta = piece.map_or_else(Delta::default, Delta::content);
                Choice::delta(choice, delta, finish_reason)
            }
            Route::Completion => Choice::text(choice, piece.unwrap_or_default(), finish_reason),
        };
        self.event(Some(choice), None)
    }

    fn event(&self, choice: Option<Choice<'_>>, usage: Option<Usage>) -> Bytes {
        let object = match self.echo.route {
            Route::Chat => "chat.completion.chunk",
            Route::Completion => "text_completion",
        };
        let json = crate::embedded::json(&Reply {
            head: self.echo.head(object),
            choices: choice.into_iter().collect(),
            usage: self.echo.include_usage.then_some(usage),
        });
        [b"data: ", json.as_ref(), b"\n\n"].concat().into()
    }
}

fn first_of_choice(echo: &Echo, choice: usize) -> Next {
    match echo.route {
        _ if choice >= echo.answers.len() && echo.include_usage => Next::Usage,
        _ if choice >= echo.answers.len() => Next::Done,
        Route::Chat => Next::Role { choice },
        Route::Completion => Next::Word { choice, said: 0 },
    }
}

impl Iterator for EchoEvents {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let (event, next) = match self.next {
            Next::Role { choice } => {
                let role = Choice::delta(choice, Delta::role(), None);
                (self.event(Some(role), None), Next::Word { choice, said: 0 })
            }
            Next::Word { choice, said } => self.word_or_finish(choice, said),
            Next::Usage => (self.event(None, Some(self.echo.usage())), Next::Done),
            Next::Done => (Bytes::from_static(b"data: [DONE]\n\n"), Next::Nothing),
            Next::Nothing => return None,
        };
        self.next = next;
        Some(event)
    }
}
