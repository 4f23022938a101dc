// npm's oidc-provider, set up by one JSON argument and listening on loopback:
//
//	node server.mjs '{"port": 4000, "issuer": "http://127.0.0.1:4000", "clients": [ … ], "jwks": { … }}'
//
// A client of the argument is
//
//	{"id", "secret", "grants": [grant types], "redirect_uris": [...], "token_seconds": life of its access tokens,
//	 "auth_method": how it proves itself, "jwks": its public keys, "certificate_name": the DNS name in its certificate,
//	 "certificate_bound": whether its access tokens are bound to its certificate,
//	 "grace_seconds": how long a refresh token is still good after it was used}
//
// "mtls": {"token_endpoint", "ca": PEM} is the token endpoint's address for clients with a certificate, and who
// issues those. What ends TLS there passes the client's on in the field X-Client-Cert, as base64.
//
// "dpop_nonces": true wants a nonce in each DPoP proof. Clients may exchange any active access token for one
// of their own (RFC 8693); introspection then says for which, by the hash in "exchanged_for".
//
// "trusted": [{"issuer", "key": public JWK}] are those whose assertions it takes for a grant (RFC 7523 section 2.1).
//
// Clients may ask for the scopes below. Without a resource (RFC 8707) their access tokens are opaque,
// with one they are JWTs for it. Refresh tokens rotate, and using one twice revokes the whole grant, unless the
// client has a grace.
import { hash, randomBytes, X509Certificate } from 'node:crypto';
import { importJWK, jwtVerify } from 'jose';
import Provider, { errors } from 'oidc-provider';
import MemoryAdapter from 'oidc-provider/lib/adapters/memory_adapter.js';
import LRU from 'oidc-provider/lib/helpers/lru.js';

const jwtBearer = 'urn:ietf:params:oauth:grant-type:jwt-bearer';
const tokenExchange = 'urn:ietf:params:oauth:grant-type:token-exchange';
const accessToken = 'urn:ietf:params:oauth:token-type:access_token';
const scopes = ['read:data', 'write:data'];
const { port, issuer, clients, jwks, dpop_nonces, mtls, trusted = [] } = JSON.parse(process.argv[2]);

const lives = new Map(clients.map((client) => [client.id, client.token_seconds]));
const lifeOf = (ctx, token, client) => lives.get(client.clientId);

const clientCertificate = (ctx) => {
  const der = ctx.get('X-Client-Cert');
  return der ? new X509Certificate(Buffer.from(der, 'base64')) : undefined;
};

// The built-in memory forgets all but the latest 1,000 tokens, sessions and used assertions.
const memory = new LRU({ maxSize: 1_000_000 });

const graces = new Map(clients.map((client) => [client.id, client.grace_seconds ?? 0]));

class Adapter extends MemoryAdapter {
  async consume(id) {
    const { clientId } = await this.find(id);
    const grace = this.model === 'RefreshToken' ? graces.get(clientId) : 0;
    if (grace) {
      setTimeout(() => super.consume(id), grace * 1000);
    } else {
      await super.consume(id);
    }
  }
}

const provider = new Provider(issuer, {
  adapter: (model) => new Adapter(model, memory),
  clients: clients.map(({ id, secret, grants, redirect_uris = [], auth_method, jwks, certificate_name, certificate_bound = false }) => ({
    client_id: id,
    ...(!auth_method || auth_method.startsWith('client_secret') ? { client_secret: secret } : {}),
    ...(auth_method && { token_endpoint_auth_method: auth_method }),
    ...(jwks && { jwks }),
    ...(certificate_name && { tls_client_auth_san_dns: certificate_name }),
    tls_client_certificate_bound_access_tokens: certificate_bound,
    grant_types: grants,
    redirect_uris,
    response_types: grants.includes('authorization_code') ? ['code'] : [],
  })),
  clientAuthMethods: [
    'client_secret_basic',
    'client_secret_post',
    'client_secret_jwt',
    'private_key_jwt',
    'tls_client_auth',
    'self_signed_tls_client_auth',
  ],
  scopes: ['openid', 'offline_access', ...scopes],
  ttl: {
    AccessToken: lifeOf,
    ClientCredentials: lifeOf,
    Grant: 24 * 60 * 60,
    IdToken: 60,
    Interaction: 60,
    RefreshToken: 24 * 60 * 60,
    Session: 24 * 60 * 60,
  },
  rotateRefreshToken: true,
  // Whoever types any password at the built-in sign-in page is that person.
  findAccount: (ctx, sub) => ({ accountId: sub, claims: () => ({ sub }) }),
  features: {
    clientCredentials: { enabled: true },
    dPoP: { enabled: true, nonceSecret: randomBytes(32), requireNonce: () => dpop_nonces },
    introspection: { enabled: true },
    mTLS: {
      enabled: true,
      certificateBoundAccessTokens: true,
      selfSignedTlsClientAuth: true,
      tlsClientAuth: true,
      getCertificate: clientCertificate,
      certificateAuthorized: (ctx) => {
        const certificate = clientCertificate(ctx);
        const now = new Date();
        return certificate.verify(new X509Certificate(mtls.ca).publicKey)
          && new Date(certificate.validFrom) <= now && now <= new Date(certificate.validTo);
      },
      certificateSubjectMatches: (ctx, property, expected) => clientCertificate(ctx).checkHost(expected) !== undefined,
    },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (ctx, resource) => ({
        audience: resource,
        scope: scopes.join(' '),
        accessTokenFormat: 'jwt',
      }),
    },
  },
  extraTokenClaims: ({ oidc: { params } }) => (params.grant_type === tokenExchange
    ? { exchanged_for: hash('sha256', params.subject_token, 'base64url') } : undefined),
  ...(mtls && { discovery: { mtls_endpoint_aliases: { token_endpoint: mtls.token_endpoint } } }),
  cookies: { keys: ['end-to-end tests'] },
  jwks,
});

provider.registerGrantType(tokenExchange, async (ctx) => {
  const { client, params } = ctx.oidc;
  const { subject_token, subject_token_type, scope } = params;
  if (subject_token_type !== accessToken) {
    throw new errors.InvalidRequest('subject_token_type must be an access token');
  }
  const subject = await provider.ClientCredentials.find(subject_token) ?? await provider.AccessToken.find(subject_token);
  if (!subject?.isValid) {
    throw new errors.InvalidRequest('subject_token is not an active access token'); // RFC 8693 section 2.2.2
  }
  const token = new provider.ClientCredentials({ client, scope });
  ctx.body = {
    access_token: await token.save(),
    issued_token_type: accessToken,
    token_type: token.tokenType,
    expires_in: token.expiration,
    scope,
  };
}, ['subject_token', 'subject_token_type', 'requested_token_type', 'scope', 'audience', 'resource']);

provider.registerGrantType(jwtBearer, async (ctx) => {
  const { client, params: { assertion, scope } } = ctx.oidc;
  try {
    await jwtVerify(assertion, ({ kid }) => {
      const { key } = trusted.find((t) => t.key.kid === kid);
      return importJWK(key);
    }, { issuer: trusted.map((t) => t.issuer), audience: issuer, requiredClaims: ['sub', 'exp'] });
  } catch (err) {
    throw new errors.InvalidGrant('assertion is not acceptable', err.message); // RFC 7523 section 3.1
  }
  const token = new provider.ClientCredentials({ client, scope });
  ctx.body = {
    access_token: await token.save(), token_type: token.tokenType, expires_in: token.expiration, scope,
  };
}, ['assertion', 'scope']);

provider.on('grant.error', (ctx, err) => console.error('token request refused:', err.message, err.error_detail));
provider.on('server_error', (ctx, err) => console.error(err));
provider.listen(port, '127.0.0.1', () => console.log(`${issuer} is ready`));
