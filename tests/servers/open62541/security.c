/* The test server's configuration: security, users, limits (part of scada-engine, Apache-2.0). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <open62541/plugin/accesscontrol_default.h>
#include <open62541/plugin/pki_default.h>
#include <open62541/server_config_default.h>

#include "options.h"

/* Standard output carries READY only, so what open62541 has to say goes to standard error. */
static void log_to_stderr(void *context, UA_LogLevel level, UA_LogCategory category, const char *text, va_list args) {
    (void)context;
    (void)category;
    if(level < UA_LOGLEVEL_ERROR)
        return;
    vfprintf(stderr, text, args);
    fputc('\n', stderr);
}

static UA_ByteString read_file(const char *path) {
    FILE *file = fopen(path, "rb");
    if(file == NULL) {
        perror(path);
        exit(1);
    }
    fseek(file, 0, SEEK_END);
    UA_ByteString content;
    check(UA_ByteString_allocBuffer(&content, (size_t)ftell(file)), path);
    rewind(file);
    if(fread(content.data, 1, content.length, file) != content.length) {
        perror(path);
        exit(1);
    }
    fclose(file);
    return content;
}

/* Let `verification` accept the certificate in a file, or every certificate if `path` is NULL. */
static void trust(UA_CertificateVerification *verification, const char *path) {
    if(verification->clear != NULL)
        verification->clear(verification);
    if(path == NULL) {
        UA_CertificateVerification_AcceptAll(verification);
        return;
    }
    UA_ByteString certificate = read_file(path);
    check(UA_CertificateVerification_Trustlist(verification, &certificate, 1, NULL, 0, NULL, 0), path);
    UA_ByteString_clear(&certificate);
}

/* Add endpoints of both modes for the policies that were added last. */
static void offer_last_policies(UA_ServerConfig *config, size_t count) {
    for(size_t i = config->securityPoliciesSize - count; i < config->securityPoliciesSize; i++) {
        UA_String uri = config->securityPolicies[i].policyUri;
        check(UA_ServerConfig_addEndpoint(config, uri, UA_MESSAGESECURITYMODE_SIGN), "endpoint");
        check(UA_ServerConfig_addEndpoint(config, uri, UA_MESSAGESECURITYMODE_SIGNANDENCRYPT), "endpoint");
    }
}

static void offer_security(UA_ServerConfig *config, const Options *options) {
    UA_ByteString certificate = read_file(options->certificate), key = read_file(options->key);
    check(UA_ServerConfig_setDefaultWithSecurityPolicies(config, options->port, &certificate, &key,
                                                         NULL, 0, NULL, 0, NULL, 0), "security policies");
    if(options->deprecated) {
        check(UA_ServerConfig_addSecurityPolicyBasic128Rsa15(config, &certificate, &key), "Basic128Rsa15");
        check(UA_ServerConfig_addSecurityPolicyBasic256(config, &certificate, &key), "Basic256");
        offer_last_policies(config, 2);
    }
    UA_ByteString_clear(&certificate);
    UA_ByteString_clear(&key);
    trust(&config->secureChannelPKI, options->trusted_client);
    trust(&config->sessionPKI, options->user_certificate);
    if(!options->only_secure)
        return;
    size_t kept = 0;
    for(size_t i = 0; i < config->endpointsSize; i++) {
        if(config->endpoints[i].securityMode == UA_MESSAGESECURITYMODE_NONE)
            UA_EndpointDescription_clear(&config->endpoints[i]);
        else
            config->endpoints[kept++] = config->endpoints[i];
    }
    config->endpointsSize = kept;
    config->securityPolicyNoneDiscoveryOnly = true;
}

static void admit_users(UA_ServerConfig *config, const Options *options) {
    UA_UsernamePasswordLogin logins[MAX_USERS];
    for(size_t i = 0; i < options->user_count; i++) {
        char *password = strchr(options->users[i], ':');
        if(password == NULL) {
            fprintf(stderr, "--user %s: not NAME:PASSWORD\n", options->users[i]);
            exit(2);
        }
        *password++ = '\0';
        logins[i].username = UA_STRING(options->users[i]);
        logins[i].password = UA_STRING(password);
    }
    check(UA_AccessControl_default(config, !options->no_anonymous, NULL, options->user_count, logins), "users");
}

static void limit(UA_ServerConfig *config, const Options *options) {
    config->publishingIntervalLimits.min = 5.0; /* the least that open62541 allows */
    config->samplingIntervalLimits.min = options->sampled ? 5.0 : 0.0;
    if(!options->sampled)
        config->samplingIntervalLimits.max = 0.0;
    config->queueSizeLimits.max = 100000;
    config->maxNotificationsPerPublish = 10000;
    config->maxMonitoredItemsPerCall = options->max_items_per_call;
    config->maxMonitoredItemsPerSubscription = options->max_items_per_subscription;
    config->maxNodesPerRead = options->max_nodes_per_read;
    config->maxNodesPerBrowse = options->max_nodes_per_browse;
    if(options->max_session_ms > 0)
        config->maxSessionTimeout = options->max_session_ms;
    if(options->max_lifetime_count > 0) {
        config->lifeTimeCountLimits.min = 3;
        config->lifeTimeCountLimits.max = options->max_lifetime_count;
        config->keepAliveCountLimits.max = options->max_lifetime_count / 3;
    }
    if(options->max_retransmission > 0)
        config->maxRetransmissionQueueSize = options->max_retransmission;
}

static void replace(UA_String *text, const char *by) {
    UA_String_clear(text);
    *text = UA_String_fromChars(by);
}

void configure(UA_ServerConfig *config, const Options *options) {
    static UA_Logger logger = {log_to_stderr, NULL, NULL};
    memset(config, 0, sizeof(*config));
    config->logging = &logger;
    if(options->certificate != NULL)
        offer_security(config, options);
    else
        check(UA_ServerConfig_setMinimal(config, options->port, NULL), "configuration");
    admit_users(config, options);
    limit(config, options);
    config->customDataTypes = &custom_types;
    if(options->history_page > 0)
        prepare_history(config, options);
    if(options->application_uri != NULL) {
        replace(&config->applicationDescription.applicationUri, options->application_uri);
        for(size_t i = 0; i < config->endpointsSize; i++)
            replace(&config->endpoints[i].server.applicationUri, options->application_uri);
    }
    char url[MAX_NAME];
    snprintf(url, sizeof(url), "opc.tcp://127.0.0.1:%u", options->port);
    UA_Array_delete(config->serverUrls, config->serverUrlsSize, &UA_TYPES[UA_TYPES_STRING]);
    config->serverUrls = UA_String_new();
    *config->serverUrls = UA_String_fromChars(url);
    config->serverUrlsSize = 1;
}
