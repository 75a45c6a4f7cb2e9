/* The test server's memory of its counters (part of scada-engine, Apache-2.0). */
#include <open62541/plugin/historydata/history_data_backend_memory.h>
#include <open62541/plugin/historydata/history_data_gathering_default.h>
#include <open62541/plugin/historydata/history_database_default.h>

#include "options.h"

#define FIRST_VALUES 1000 /* the store grows as needed */

static UA_HistoryDataGathering gathering;

void prepare_history(UA_ServerConfig *config, const Options *options) {
    gathering = UA_HistoryDataGathering_Default(options->variables);
    config->historyDatabase = UA_HistoryDatabase_default(gathering);
    config->accessHistoryDataCapability = true;
}

void keep_history(UA_Server *server, const UA_NodeId *tags, const Options *options) {
    UA_HistorizingNodeIdSettings settings = {
        .historizingBackend = UA_HistoryDataBackend_Memory(options->variables, FIRST_VALUES),
        .maxHistoryDataResponseSize = options->history_page,
        .historizingUpdateStrategy = UA_HISTORIZINGUPDATESTRATEGY_VALUESET,
    };
    for(size_t i = 0; i < options->variables; i++) {
        check(UA_Server_writeHistorizing(server, tags[i], true), "Historizing");
        check(UA_Server_writeAccessLevel(server, tags[i], UA_ACCESSLEVELMASK_READ | UA_ACCESSLEVELMASK_HISTORYREAD),
              "AccessLevel");
        check(gathering.registerNodeId(server, gathering.context, &tags[i], settings), "history");
    }
}
