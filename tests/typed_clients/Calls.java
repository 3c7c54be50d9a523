import org.openapitools.client.ApiClient;
import org.openapitools.client.ApiException;
import org.openapitools.client.api.DumpsApi;
import org.openapitools.client.api.PackagesApi;
import org.openapitools.client.model.DailyDownloads;
import org.openapitools.client.model.Dump;
import org.openapitools.client.model.Interval;
import org.openapitools.client.model.Mirrors;
import org.openapitools.client.model.Problem;
import org.openapitools.client.model.RecentCounts;

/** Prints the figures of all packages, and the dumps: `java Calls ADDRESS`. */
class Calls {
    public static void main(String[] arguments) throws Exception {
        ApiClient client = new ApiClient();
        client.updateBaseUri(arguments[0]);
        PackagesApi packages = new PackagesApi(client);

        RecentCounts recent = packages.getRecent("__all__", null, null, null).getData();
        long lastDay = recent.getLastDay(), lastWeek = recent.getLastWeek();
        System.out.println(lastDay + " " + lastWeek + " " + recent.getLastMonth());

        var overall = packages.getOverall(
            "__all__", Mirrors.FALSE, null, null, null, null, null, Interval.WEEK, null);
        for (DailyDownloads item : overall.getData()) {
            long downloads = item.getDownloads();
            System.out.println(item.getDate() + " " + item.getCategory() + " " + downloads);
        }

        for (Dump dump : new DumpsApi(client).getDumps().getData()) {
            long bytes = dump.getBytes(), downloads = dump.getDownloads();
            System.out.println(dump.getDay() + " " + dump.getName() + " " + bytes + " " + downloads);
        }

        try {
            packages.getRecent("no-such-package", null, null, null);
        } catch (ApiException error) {
            Problem problem = client.getObjectMapper().readValue(error.getResponseBody(), Problem.class);
            System.out.println(error.getCode() + " " + problem.getDetail());
        }
    }
}
