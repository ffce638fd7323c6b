//! Crates that work within a handler: actix-files, actix-multipart, async-graphql-actix-web and utoipa-actix-web.

use std::path::PathBuf;

use actix_files::NamedFile;
use actix_multipart::form::{MultipartForm, tempfile::TempFile, text::Text};
use actix_web::{
    Error, FromRequest as _, HttpRequest, HttpResponse, Responder as _,
    dev::Payload,
    error::ErrorInternalServerError,
    post,
    web::{self, ServiceConfig},
};
use async_graphql::{EmptySubscription, Object, Schema};
use async_graphql_actix_web::{GraphQLRequest, GraphQLResponse};
use awc::ClientRequest;

use super::{Handling, Layer, Log};
use crate::app;

/// Answers with a file, its `ETag` and its `Last-Modified`.
pub(super) struct Files;

impl Layer for Files {
    fn run(&self, request: HttpRequest, _payload: Payload, _n: usize) -> Handling<'_> {
        Box::pin(async move {
            let file = NamedFile::open(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))?;
            Ok(file.into_response(&request))
        })
    }

    fn fail(&self, _request: HttpRequest, _payload: Payload) -> Handling<'_> {
        Box::pin(async move {
            let file = NamedFile::open("no such file");
            Err(ErrorInternalServerError(file.expect_err("there is no such file")))
        })
    }
}

/// Takes an upload into a temporary file, which is gone when the request is over.
#[derive(Default)]
pub(super) struct Multipart(Log);

#[derive(MultipartForm)]
struct Upload {
    amount: Text<u32>,
    receipt: TempFile,
}

impl Multipart {
    async fn upload(&self, request: HttpRequest, mut payload: Payload) -> Result<String, Error> {
        let form = MultipartForm::<Upload>::from_request(&request, &mut payload).await?;
        let path = form.receipt.file.path();
        self.0.push(path.display().to_string());
        let text = std::fs::read_to_string(path)?;
        Ok(format!("{} for {text}", form.amount.0))
    }
}

impl Layer for Multipart {
    fn dress(&self, request: ClientRequest) -> ClientRequest {
        request.insert_header(("content-type", "multipart/form-data; boundary=between"))
    }

    fn body(&self, is_other: bool) -> String {
        let amount = if is_other { 2 } else { 1 };
        format!(
            "--between\r\ncontent-disposition: form-data; name=\"amount\"\r\n\r\n{amount}\r\n\
             --between\r\ncontent-disposition: form-data; name=\"receipt\"; filename=\"receipt.txt\"\r\n\
             content-type: text/plain\r\n\r\na coffee\r\n--between--\r\n"
        )
    }

    fn run(&self, request: HttpRequest, payload: Payload, n: usize) -> Handling<'_> {
        Box::pin(async move {
            let text = self.upload(request, payload).await?;
            Ok(HttpResponse::Created().body(format!("run {n}: {text}")))
        })
    }

    fn fail(&self, request: HttpRequest, payload: Payload) -> Handling<'_> {
        Box::pin(async move { Err(ErrorInternalServerError(self.upload(request, payload).await?)) })
    }

    fn seen(&self) -> Vec<String> {
        let kept = |path: String| format!("a temporary file is left: {}", PathBuf::from(path).exists());
        self.0.take().into_iter().map(kept).collect()
    }
}

/// A mutation. Errors arrive in a 200.
pub(super) struct GraphQl;

struct Query;

#[Object]
impl Query {
    async fn balance(&self) -> i32 {
        0
    }
}

/// The answer to the mutation.
struct Mutation(Result<usize, &'static str>);

#[Object]
#[allow(clippy::unused_async, reason = "resolvers are async")]
impl Mutation {
    async fn pay(&self, amount: i32) -> async_graphql::Result<String> {
        match self.0 {
            Ok(n) => Ok(format!("run {n}: {amount}")),
            Err(text) => Err(text.into()),
        }
    }
}

async fn mutate(
    request: HttpRequest,
    mut payload: Payload,
    answer: Result<usize, &'static str>,
) -> Result<HttpResponse, Error> {
    let mutation = GraphQLRequest::from_request(&request, &mut payload).await?;
    let schema = Schema::new(Query, Mutation(answer), EmptySubscription);
    let answer = GraphQLResponse::from(schema.execute(mutation.into_inner()).await);
    Ok(answer.respond_to(&request).map_into_boxed_body())
}

impl Layer for GraphQl {
    fn dress(&self, request: ClientRequest) -> ClientRequest {
        request.insert_header(("content-type", "application/json"))
    }

    fn body(&self, is_other: bool) -> String {
        format!(r#"{{"query":"mutation {{ pay(amount: {}) }}"}}"#, if is_other { 2 } else { 1 })
    }

    fn run(&self, request: HttpRequest, payload: Payload, n: usize) -> Handling<'_> {
        Box::pin(mutate(request, payload, Ok(n)))
    }

    fn fail(&self, request: HttpRequest, payload: Payload) -> Handling<'_> {
        Box::pin(mutate(request, payload, Err("out of paper")))
    }
}

/// A documented route, in a documented scope.
pub(super) struct Utoipa;

#[utoipa::path(responses((status = 201)))]
#[post("/{id}")]
async fn pay(request: HttpRequest, payload: web::Payload) -> Result<HttpResponse, Error> {
    app::handle(request, payload).await
}

impl Layer for Utoipa {
    fn mount(&self, config: &mut ServiceConfig) {
        config.service(utoipa_actix_web::scope("/pay").service(pay));
    }
}
